"""JAX's own tests of convolutions with jdeconv in `jax.lax`'s place: `python tests/helpers/jax_tests.py CHECKOUT`.

Neither JAX's wheel nor its sdist holds its tests: CHECKOUT is a checkout of its repository at the installed version.
Each test runs as it is and with the functions replaced; those that fail only when they are replaced are the answer.
JAX_NUM_GENERATED_CASES (JAX's own variable, default 10) is how many cases of each test there are.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import types

FILES = ("lax_test.py", "lax_autodiff_test.py", "lax_vmap_test.py")
NAMES = "Conv and not Convert"
# Functions of jax.lax that call conv_general_dilated by their own module's name for it, which no patch reaches.
CALLERS = ("conv_general_dilated_patches", "conv_general_dilated_local")
REPLACED = "JDECONV_IN_LAX_PLACE"


def pytest_configure():
    """This module is pytest's plug-in in the process with the functions replaced."""
    if REPLACED in os.environ:
        replace()


def replace():
    """`jax.lax`'s functions of convolution route their calls, until the process ends."""
    from jax import lax

    import jdeconv

    jdeconv.patch()
    ours = {name: getattr(lax, name) for name in dir(lax) if name.startswith("conv")}
    for name in CALLERS:
        of_jax = getattr(lax, name)
        globals_ = dict(vars(sys.modules[of_jax.__module__]))
        globals_["convolution"] = types.SimpleNamespace(**{**vars(globals_["convolution"]), **ours})
        globals_ |= {other: value for other, value in ours.items() if other in globals_}
        ours[name] = types.FunctionType(of_jax.__code__, globals_, name, of_jax.__defaults__, of_jax.__closure__)
        ours[name].__kwdefaults__ = of_jax.__kwdefaults__
        setattr(lax, name, ours[name])


def outcome(files, replaced):
    """The tests that fail, and pytest's closing line and report."""
    environment = dict(os.environ, JAX_NUM_GENERATED_CASES=os.environ.get("JAX_NUM_GENERATED_CASES", "10"))
    paths = [str(pathlib.Path(__file__).parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if replaced:
        environment[REPLACED] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-k", NAMES, "--tb=short"]
    command += ["-p", "jax_tests", "-p", "no:cacheprovider", "-c", os.devnull, *map(str, files)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode not in (0, 1):
        raise SystemExit(run.stdout + run.stderr)
    failed = set(re.findall(r"^(?:FAILED|ERROR) \S+?::(\S+)", run.stdout, re.MULTILINE))
    return failed, run.stdout.strip().splitlines()[-1], run.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("checkout", type=pathlib.Path, help="a checkout of JAX's repository, at the installed version")
    files = [parser.parse_args().checkout / "tests" / name for name in FILES]
    as_it_is, closing, _ = outcome(files, replaced=False)
    print(f"jax.lax as it is:  {closing}")
    replaced, closing, report = outcome(files, replaced=True)
    print(f"with jdeconv:      {closing}")
    worse = sorted(replaced - as_it_is)
    print(*(["Fail with jdeconv alone:", *worse, report] if worse else ["No test fails with jdeconv alone."]), sep="\n")
    sys.exit(bool(worse))


if __name__ == "__main__":
    main()
