"""The package as installed: light to import, typed, nothing imported that was not asked for."""

import importlib.metadata
import pathlib
import re
import statistics
import subprocess
import sys

import jdeconv


def test_version():
    assert jdeconv.__version__ == importlib.metadata.version("jdeconv")


def test_typed():
    assert (pathlib.Path(jdeconv.__file__).parent / "py.typed").exists()


def test_importing_adds_little_to_importing_jax():
    """Under a tenth, in the same process, so that a busy machine slows both: 50 ms where JAX takes half a second."""

    def share():
        command = [sys.executable, "-X", "importtime", "-c", "import jax; import jdeconv"]
        times = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        ours, theirs = (int(re.search(rf"\| +(\d+) \| {name}$", times, re.M)[1]) for name in ("jdeconv", "jax"))
        return ours / theirs

    assert statistics.median(share() for _ in range(5)) < 0.1


def test_importing_loads_no_framework_and_no_pallas():
    code = "import jax, sys; old = set(sys.modules); import jdeconv; print(*(set(sys.modules) - old), sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    others = [name for name in loaded if not name.startswith("jdeconv.")]
    assert [name for name in others if re.search("flax|equinox|pallas|mosaic|tensorflow|torch", name)] == []


def test_geometry_and_plan_need_no_jax():
    code = (
        "import sys, types, importlib.util as u, pathlib\n"
        "root = pathlib.Path(u.find_spec('jdeconv').submodule_search_locations[0])\n"
        "package = types.ModuleType('jdeconv'); package.__path__ = [str(root)]; sys.modules['jdeconv'] = package\n"
        "import jdeconv._geometry, jdeconv._plan\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
