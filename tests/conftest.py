"""Eight CPU devices for every test, how much of the tests runs, and where tests find `benchmarks`.

`pytest` alone takes minutes: few draws for each property, and samples of the tests that say so (`sampled`). All draws
and all tests run with JDECONV_FULL=1, which CI sets; all of a test, where it is named (`pytest path::test`). With
JDECONV_HALF=0 or 1 beside it, one half of the cases that are no samples runs: CI has two versions of JAX, one for each.
Modules that tests share are in `helpers`, which pytest's `pythonpath` names (pyproject.toml).
"""

import collections
import os
import pathlib
import sys
import zlib

import jax
from hypothesis import HealthCheck, Phase, settings

sys.path.append(str(pathlib.Path(__file__).parents[1]))  # last, so that jdeconv is the installed one

jax.config.update("jax_platforms", "cpu")  # also where compilers for others are installed, which find no device
jax.config.update("jax_num_cpu_devices", 8)

FULL = os.environ.get("JDECONV_FULL") == "1"
HALF = os.environ.get("JDECONV_HALF")

# Derandomised, so that a red run is red for everybody; JDECONV_EXAMPLES draws more, JDECONV_SEED=random draws anew.
settings.register_profile(
    "jdeconv",
    max_examples=int(os.environ.get("JDECONV_EXAMPLES", "20" if FULL else "3")),
    derandomize=os.environ.get("JDECONV_SEED") != "random",
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
# pytest -m fuzz --hypothesis-profile=long: always anew, nothing kept for the next run, no minutes spent on shrinking.
settings.register_profile(
    "long",
    settings.get_profile("jdeconv"),
    max_examples=500,
    derandomize=False,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("jdeconv")


def pytest_report_header():
    return "jdeconv: all tests" if FULL else "jdeconv: the short tests; JDECONV_FULL=1 runs all"


def pytest_collection_modifyitems(config, items):
    if (FULL and HALF is None) or any("::" in argument for argument in config.args):
        return
    seen, left, kept = collections.Counter(), [], []
    for item in items:
        test, mark = item.nodeid.partition("[")[0], item.get_closest_marker("sampled")
        step = mark.args[0] if mark else 1
        sample = step and seen[test] % step == 0
        # A number that no parameter follows: every second case might always be the same result, or dtype.
        in_half = FULL and (step == 0 or zlib.crc32(item.nodeid.encode()) % 2 == int(HALF))
        (kept if sample or in_half else left).append(item)
        seen[test] += 1
    config.hook.pytest_deselected(items=left)
    items[:] = kept
