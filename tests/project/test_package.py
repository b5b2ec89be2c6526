"""The package as installed: light to import, typed, nothing imported that was not asked for."""

import ast
import importlib.metadata
import importlib.util
import inspect
import os
import pathlib
import re
import statistics
import subprocess
import sys

import pytest

import jdeconv

PACKAGE = pathlib.Path(jdeconv.__file__).parent


def test_version():
    assert jdeconv.__version__ == importlib.metadata.version("jdeconv")


def test_typed():
    assert (pathlib.Path(jdeconv.__file__).parent / "py.typed").exists()


def test_importing_adds_little_to_importing_jax():
    """Under a tenth, in the same process, so that a busy machine slows both: 50 ms where JAX takes half a second."""
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def share():
        command = [sys.executable, "-X", "importtime", "-c", "import jax; import jdeconv"]
        times = subprocess.run(command, capture_output=True, text=True, check=True, env=compiled).stderr
        ours, theirs = (int(re.search(rf"\| +(\d+) \| {name}$", times, re.M)[1]) for name in ("jdeconv", "jax"))
        return ours / theirs

    share()  # compiles what is not yet
    assert statistics.median(share() for _ in range(5)) < 0.1


def test_importing_loads_no_framework_and_no_pallas():
    code = "import jax, sys; old = set(sys.modules); import jdeconv; print(*(set(sys.modules) - old), sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    others = [name for name in loaded if not name.startswith("jdeconv.")]
    assert [name for name in others if re.search("flax|equinox|pallas|mosaic|tensorflow|torch", name)] == []


def visible(tree):
    """The statements that a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "not TYPE_CHECKING":
            yield from node.orelse
        else:
            yield node
            yield from visible(node)


def test_no_module_has_every_name_for_a_type_checker():
    def made(source):
        return {each.name for each in visible(ast.parse(source)) if isinstance(each, ast.FunctionDef)}

    assert "__getattr__" in made("def __getattr__(name): ...")
    assert [path.name for path in PACKAGE.rglob("*.py") if made(path.read_text()) & {"__getattr__"}] == ["_flax.py"]
    assert "class _Lax" in (PACKAGE / "_flax.py").read_text()  # a stand-in of `jax.lax`, not a module


def public():
    """The signature of each function that users call, and of each class that has an `__init__` of its own: by name."""
    for module in ("jdeconv", *(f"jdeconv.{name}" for name in jdeconv._MODULES)):
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as missing:  # a framework that is not installed
            if missing.name.startswith("jdeconv"):
                raise
            continue
        for name in sorted({*dir(found)} - {*jdeconv._MODULES}):
            each = getattr(found, name)
            if name.startswith("_") or not getattr(each, "__module__", "").startswith(module):
                continue  # of another module
            if function := vars(each).get("__init__") if isinstance(each, type) else each:
                yield f"{module}.{name}", inspect.signature(function)


PUBLIC = dict(public())


@pytest.mark.parametrize("name", PUBLIC)
def test_no_public_signature_hides_arguments(name):
    """Behind `*arguments` or `**options` a misspelt argument would pass a type checker. Policies are called by JAX
    alone. The arguments of `autotune` are those of any function.
    """
    if "checkpoint_policies" in name or name == "jdeconv.autotune":
        return
    kinds = {parameter.kind for parameter in PUBLIC[name].parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}, PUBLIC[name]


MISSPELT = """
import jdeconv
from flax import nnx

jdeconv.conv2d_transposed
jdeconv.patch().restored()
jdeconv.lax.conv_transposed
jdeconv.linen.ConvTranspose(6, (3, 3), paddding="SAME")
jdeconv.nnx.ConvTranspose(4, 6, (3, 3), paddding="SAME", rngs=nnx.Rngs(0))
jdeconv.equinox.ConvTranspose2d(4, 6, 3, paddding="SAME", key=0)
"""


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_a_type_checker_finds_what_is_misspelt(tmp_path):
    pytest.importorskip("flax")
    pytest.importorskip("equinox")
    (tmp_path / "misspelt.py").write_text(MISSPELT)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "misspelt.py"]
    environment = {**os.environ, "MYPYPATH": str(PACKAGE.parent)}
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment).stdout
    lines = {int(line) for line in re.findall(r"^misspelt\.py:(\d+): error", found, re.M)}
    assert lines == {5, 6, 7, 8, 9, 10}, found
