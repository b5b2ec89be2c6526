"""Imports run downwards: each package imports those below it, and no module imports one that imports it."""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys

import pytest

import jdeconv

PACKAGE = pathlib.Path(jdeconv.__file__).parent

# From the bottom up. The ground: private modules beside the packages, in whose words no facade is. Facades: the public
# modules, and the private ones listed here.
GROUND = {
    "_arguments",
    "_dtypes",
    "_errors",
    "_geometry",
    "_jax_compat",
    "_jax_operations",
    "_onednn_switch",
    "_output_sizes",
    "_phase_geometry",
    "_settings",
    "_size_errors",
}
FACADES = {"_autotune", "_explain", "_flax", "_overlap", "_patch", "_tf", "_timing", "_to_lax", "_tuning"}
MAY_IMPORT = {
    "ground": {"ground"},
    "_plan": {"ground", "_plan"},
    "_engine": {"ground", "_plan.problem", "_plan.engine_kind", "_engine"},
    "_formulations": {
        *("ground", "_plan.problem", "_plan.tpu_tiles", "_plan.gpu_tiles", "_engine.engine", "_formulations")
    },
    "_operator": {"ground", "_plan", "_engine", "_formulations", "_operator"},
    "_call": {"ground", "_plan", "_engine", "_formulations", "_operator", "_call"},
    "convert": {"ground", "_call.arrays", "convert"},
    "facades": {"ground", "_plan", "_engine", "_formulations", "_operator", "_call", "convert", "facades"},
}


def name_of(path):
    """`_plan.cpu`, of a package `_plan`, of the package itself ''."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def package_of(module):
    first = module.split(".")[0]
    if first in MAY_IMPORT:
        return first
    if first in GROUND:
        return "ground"
    assert first in FACADES or not first.startswith("_"), f"{first} belongs to no package"
    return "facades"


def imported(module, tree, at_load):
    """The modules of this library that a module imports; those that it needs while it loads, or all of them."""
    parts = list(filter(None, module.split(".")))
    here = parts if FILES[module].name == "__init__.py" else parts[:-1]
    found = set()

    def visit(node):
        for child in ast.iter_child_nodes(node):
            lazy = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            if isinstance(child, ast.ImportFrom) and child.level:
                base = [*here[: len(here) - child.level + 1], *filter(None, (child.module or "").split("."))]
                for alias in child.names:
                    deeper = ".".join([*base, alias.name])
                    found.add(deeper if deeper in MODULES else ".".join(base))
            if not (lazy and at_load):
                visit(child)

    visit(tree)
    return found - {module}


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_a_package_imports_what_is_below_it(module):
    allowed = MAY_IMPORT[package_of(module)]
    for other in imported(module, MODULES[module], at_load=False):
        assert {package_of(other), other} & allowed, f"{module} imports {other}"


def test_no_module_imports_one_that_imports_it():
    graph = {name: imported(name, tree, at_load=True) for name, tree in MODULES.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("start", ["convert", "initializers", "_overlap"])
def test_what_computes_nothing_needs_no_planner(start):
    """As modules import one another while they load; the package itself, which loads all that computes, aside."""
    graph = {name: imported(name, tree, at_load=True) - {""} for name, tree in MODULES.items()}
    reached, new = set(), {start}
    while new:
        reached |= new
        new = {other for module in new for other in graph[module]} - reached
    assert {"_plan", "_engine", "_formulations", "_operator"} & {package_of(module) for module in reached} == set(), (
        reached
    )


def test_geometry_and_plan_need_no_jax():
    code = (
        "import sys, types, importlib.util as u, pathlib\n"
        "root = pathlib.Path(u.find_spec('jdeconv').submodule_search_locations[0])\n"
        "package = types.ModuleType('jdeconv'); package.__path__ = [str(root)]; sys.modules['jdeconv'] = package\n"
        "import importlib\n"
        "for path in (root / '_plan').glob('*.py'): importlib.import_module(f'jdeconv._plan.{path.stem}')\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("page", ["docs/pages/architecture.md", "CONTRIBUTING.md"])
def test_pages_name_files_that_are_there(page):
    root = pathlib.Path(__file__).parents[2]
    # The library may be installed elsewhere.
    named = set(re.findall(r"`(?:jdeconv/)?([\w/]+\.py)`", (root / page).read_text()))
    assert [
        name for name in named if "NAME" not in name and not any((at / name).exists() for at in (PACKAGE, root))
    ] == []


def test_no_file_is_long():
    """Neither a module of the library nor one of tests."""
    files = [*FILES.values(), *pathlib.Path(__file__).parents[1].rglob("test_*.py")]
    assert [str(path) for path in files if len(path.read_text().splitlines()) > 400] == []
