"""What is shipped and what is loaded: archives of the same bytes anywhere, with what they should hold; no pickles.

The archives are built by the backend that pyproject.toml names, from copies of what git knows. Without it, or without
git, these tests are skipped, unless JDECONV_BUILD=1 (CI sets it).
"""

import ast
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAME = f"jdeconv-{PROJECT['project']['version']}"
WHEEL, SOURCE = f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"
ABSENT = importlib.util.find_spec("flit_core") is None or not (ROOT / ".git").exists()

if ABSENT and os.environ.get("JDECONV_BUILD") == "1":
    raise RuntimeError("JDECONV_BUILD=1, but flit_core or the git repository is absent (pip install 'jdeconv[dev]')")
needs_build = pytest.mark.skipif(ABSENT, reason="flit_core or the git repository is absent (jdeconv[dev])")

BUILD = """
import os, sys
from flit_core import buildapi
os.umask(int(sys.argv[2], 8))
print(buildapi.build_sdist(sys.argv[1]), buildapi.build_wheel(sys.argv[1]))
"""


def tracked(*paths):
    """The files that git knows, or would add, and that are there."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *paths]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


def built(folder, *, umask, mode, modified, zone):
    """The archives, from a copy whose files are of that mode and time."""
    (folder / "out").mkdir(parents=True)
    for name in tracked():
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, path)
        path.chmod(mode)
        os.utime(path, (modified, modified))
    (folder / "tree/jdeconv/__pycache__").mkdir()
    (folder / "tree/jdeconv/__pycache__/lax.cpython-311.pyc").write_bytes(b"")  # as a used tree has
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "TZ": zone, "PYTHONHASHSEED": str(mode)}
    command = [sys.executable, "-c", BUILD, folder / "out", umask]
    subprocess.run(command, cwd=folder / "tree", env=environment, check=True)
    return {path.name: path for path in (folder / "out").iterdir()}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    one = dict(umask="022", mode=0o644, modified=1600000000, zone="UTC")
    other = dict(umask="077", mode=0o600, modified=1750000000, zone="Asia/Tokyo")
    return [built(tmp_path_factory.mktemp("build") / "copy", **how) for how in (one, other)]


@needs_build
def test_both_archives_are_the_same_bytes_whoever_builds_them(archives):
    one, other = ({name: path.read_bytes() for name, path in found.items()} for found in archives)
    assert sorted(one) == [WHEEL, SOURCE]
    assert one == other


@needs_build
def test_the_wheel_holds_the_package_and_nothing_else(archives):
    with zipfile.ZipFile(archives[0][WHEEL]) as wheel:
        names = set(wheel.namelist())
    info = {f"{NAME}.dist-info/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")}
    assert names == {*tracked("jdeconv"), *info}
    assert "jdeconv/py.typed" in names


@needs_build
def test_the_source_archive_holds_what_builds_the_wheel(archives):
    with tarfile.open(archives[0][SOURCE]) as source:
        names = {member.name.removeprefix(f"{NAME}/") for member in source.getmembers()}
    beside = {"CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert names == {*tracked("jdeconv"), *beside}


def test_the_build_and_the_checks_are_pinned():
    extras = PROJECT["project"]["optional-dependencies"]
    exact = {
        line.split("==")[0].lower() for line in (ROOT / ".ci/constraints.txt").read_text().splitlines() if "==" in line
    }
    tools = [*extras["test"], *(tool for tool in extras["dev"] if not tool.startswith("jdeconv")), *extras["docs"]]
    loose = {tool for tool in tools if "==" not in tool and tool.split(">=")[0] not in exact}
    assert loose <= {"chex>=0.1.91"}  # which follows JAX
    assert PROJECT["build-system"]["requires"] == ["flit_core==3.12.0"]
    assert "flit_core==3.12.0" in extras["dev"]


# What is loaded.

PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
OWN_PIPE = {"tests/helpers/keras_child.py", "tests/facades/test_keras.py"}  # to a process that the test itself started
SAFE = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "jnp.load": ("allow_pickle", False),
    "jax.numpy.load": ("allow_pickle", False),
}


def unsafe(source):
    """The lines that import a pickler, or load what may be a pickle."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            options = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            argument, safe = SAFE.get(ast.unparse(node.func), ("safe_mode", True))  # Keras's, where it is given
            if options.get(argument, safe if argument == "safe_mode" else None) is not safe:
                yield node.lineno
        if any(name.split(".")[0] in PICKLES for name in names):
            yield node.lineno


def test_nothing_is_unpickled():
    sources = [
        p for folder in ("jdeconv", "examples", "benchmarks", "tests", "docs") for p in (ROOT / folder).rglob("*.py")
    ]
    found = {path.relative_to(ROOT).as_posix(): list(unsafe(path.read_text())) for path in sources}
    assert len(found) > 80 or not (ROOT / "jdeconv").exists()
    assert {name for name, lines in found.items() if lines} <= OWN_PIPE, found


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path)", "np.load(path, allow_pickle=True)",
        "import pickle", "from joblib import load", "keras.saving.load_model(path, safe_mode=False)",
        "a = torch.load(p, map_location=d)",
    ],
)  # fmt: skip
def test_what_is_unsafe_is_found(source):
    assert list(unsafe(source)) == [1]


def test_what_is_safe_is_not():
    assert (
        list(unsafe("torch.load(p, weights_only=True); np.load(p, allow_pickle=False); module.eval(); json.load(f)"))
        == []
    )
