"""What the documentation shows is run: docstring examples, README's snippets, README's error messages."""

import doctest
import importlib
import pathlib
import pkgutil
import re

import pytest
from test_tf import MESSAGES

import jdeconv

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
MODULES = ["jdeconv", *(m.name for m in pkgutil.walk_packages(jdeconv.__path__, "jdeconv."))]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name), raise_on_error=False).failed == 0


def test_the_public_functions_have_examples():
    public = [name for name, value in vars(jdeconv).items() if callable(value) and name[0].islower()]
    assert len(public) == 8
    for name in public:
        assert ">>>" in getattr(jdeconv, name).__doc__, name


def test_readme_snippets():
    namespace = {}
    shapes = []
    for block in re.findall(r"```python\n(.*?)```", README, re.S):
        exec(compile(block, "README.md", "exec"), namespace)
        # A comment that starts with a shape tells the shape of the line's result.
        for code, shape in re.findall(r"^y = (.*?)  +# (?:default size: )?(\([\d, ]+\))$", block, re.M):
            shapes.append(shape)
            assert eval(code, namespace).shape == eval(shape), code
    assert len(shapes) == 4
    assert namespace["gradient"].shape == namespace["w"].shape


def test_readme_errors_are_real():
    (block,) = re.findall(r"```text\n(.*?)```", README, re.S)
    assert set(block.splitlines()) <= set(MESSAGES.values())
