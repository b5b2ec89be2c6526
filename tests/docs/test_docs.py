"""What the documentation shows is run: docstring examples, snippets of README and pages, README's error messages."""

import doctest
import importlib
import os
import pathlib
import pkgutil
import re

import pytest
from peers import peer
from refused.tensorflow import MESSAGES

import jdeconv

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {str(page.relative_to(ROOT / "docs/pages")): page for page in sorted((ROOT / "docs/pages").rglob("*.md"))}
MODULES = ["jdeconv", *(m.name for m in pkgutil.walk_packages(jdeconv.__path__, "jdeconv."))]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as missing:  # the framework that a module of that name is for
        if os.environ.get("JDECONV_ORACLES") == "1":
            raise
        pytest.skip(f"{missing.name} is not installed")
    assert doctest.testmod(module, raise_on_error=False).failed == 0


def test_the_public_functions_have_examples():
    public = {*(name for name, value in vars(jdeconv).items() if callable(value)), *jdeconv._NAMES}
    public = [name for name in public if name[0].islower()]
    assert len(public) == 12
    for name in public:
        assert ">>>" in getattr(jdeconv, name).__doc__, name


def run_blocks(text, name):
    """Runs Python blocks one after the other, up to the first that imports what is absent: (their names, shapes, that).

    A comment that starts with a shape tells the shape of the line's result.
    """
    namespace, shapes = {}, []
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        for module in re.findall(r"^(?:import|from) (\w+)", block, re.M):
            if peer(module) is None:
                return namespace, shapes, module
        told = re.compile(r"^y = .*?  +# (?:default size: )?(\([\d, ]+\))$", re.M)
        shapes += told.findall(block)
        block = told.sub(r"\g<0>\nassert y.shape == \1, (y.shape, '\1')", block)
        exec(compile(block, name, "exec"), namespace)
    return namespace, shapes, None


def test_readme_snippets():
    namespace, shapes, _ = run_blocks(README, "README.md")
    assert len(shapes) == 4
    assert namespace["gradient"].shape == namespace["w"].shape


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", PAGES)
def test_snippets_of_the_pages(name):
    *_, absent = run_blocks(PAGES[name].read_text(), name)
    if absent:
        pytest.skip(f"{absent} is not installed: only the snippets before it ran")


def test_readme_errors_are_real():
    (block,) = re.findall(r"```text\n(.*?)```", README, re.S)
    assert set(block.splitlines()) <= set(MESSAGES.values())


def test_files_that_are_named_exist():
    """The library and the pages say which test or benchmark holds what they claim."""
    library = pathlib.Path(jdeconv.__file__).parent.rglob("*.py")
    texts = [path.read_text() for path in (*library, *PAGES.values(), ROOT / "README.md")]
    named = {name for text in texts for name in re.findall(r"\b(?:tests|benchmarks|examples)/[a-z0-9_/]+\.\w+", text)}
    assert len(named) > 10
    assert {name for name in named if not (ROOT / name).exists()} <= {"benchmarks/results.md"}
