"""`explain`: the plan of a call as a value, and as a table."""

import re

import jax
import numpy as np
import pytest

import jdeconv
from jdeconv._formulations import METHODS
from jdeconv._plan.method_table import RULES

X, W = jax.ShapeDtypeStruct((2, 8, 8, 4), "float32"), jax.ShapeDtypeStruct((3, 3, 6, 4), "float32")


def test_sizes_flops_and_bytes():
    found = jdeconv.explain(X, W, strides=2)
    assert (found.geometry.output, found.groups) == ((16, 16), 1)
    assert [p.problem.result for p in found.passes] == ["output", "input", "kernel"]
    for p in found.passes:
        assert p.problem.flops == 2 * 2 * 8 * 8 * 3 * 3 * 4 * 6
        assert p.bytes == 4 * (2 * 8 * 8 * 4 + 3 * 3 * 6 * 4 + 2 * 16 * 16 * 6)
        assert p.temporary >= 0
        assert set(p.choices) == {"cpu", "gpu", "tpu"}
        assert all(choice.rule in RULES for choice in p.choices.values())


def test_groups_ranks_arrays_and_formats():
    x = np.ones((2, 4, 8), "float32")
    assert jdeconv.explain(x, np.ones((3, 3, 4), "float32"), (2, 6, 8), 1, data_format="NCW").groups == 2
    assert jdeconv.explain(X, W, strides=2).geometry == jdeconv.explain(input=X, filters=W, strides=2).geometry
    volume, kernel = (
        jax.ShapeDtypeStruct((1, 4, 4, 4, 2), "bfloat16"),
        jax.ShapeDtypeStruct((2, 2, 2, 2, 2), "bfloat16"),
    )
    assert jdeconv.explain(volume, kernel, strides=2).geometry.output == (8, 8, 8)


def test_a_method_asked_for_has_no_rule():
    for method in METHODS:
        choices = [c for p in jdeconv.explain(X, W, strides=2, method=method).passes for c in p.choices.values()]
        assert {(choice.method, choice.rule) for choice in choices} == {(method, None)}


def test_symbolic_sizes_are_not_compiled():
    (n,) = jax.export.symbolic_shape("n")
    found = jdeconv.explain(jax.ShapeDtypeStruct((n, 8, 8, 4), "float32"), W, strides=2)
    assert [p.temporary for p in found.passes] == [None] * 3
    assert "?" in str(found)


def test_the_table():
    lines = str(jdeconv.explain(X, W, strides=2)).splitlines()
    assert lines[0] == (
        "input (8, 8), kernel (3, 3), output (16, 16), strides (2, 2), dilations (1, 1), low (0, 0), groups 1"
    )
    assert lines[1].split() == ["pass", "cpu", "gpu", "tpu", "GFLOP", "MB", "temporary", "MB", "(cpu)"]
    assert [line.split("  ")[0] for line in lines[2:5]] == ["forward", "input gradient", "kernel gradient"]
    assert all(line.split(":")[0] in METHODS for line in lines[5:])


def test_an_array_of_no_rank_that_is_known():
    message = (
        "value=an array of rank 2: no transposed convolution has that; expected rank 3, 4 or 5. "
        "Add the batch and channels dimensions."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        jdeconv.explain(jax.ShapeDtypeStruct((2, 2), "float32"), W)


def test_a_kernel_without_taps():
    found = jdeconv.explain(np.ones((1, 4, 4, 3)), np.ones((0, 3, 2, 3)))
    assert len(str(found).splitlines()) > 4


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("names", [("value", "filter"), ("input", "filters")])
def test_refusals_name_what_was_given(rank, names):
    given = {name: np.ones((2,) * (rank + 2), dtype) for name, dtype in zip(names, ("float32", "float16"), strict=True)}
    shape = [2] * (rank + 2)
    message = f"{names[1]}=float16{shape}: dtype float16; expected float32, as {names[0]}=float32{shape} has."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        jdeconv.explain(**given)
    given[names[1]] = jax.ShapeDtypeStruct(shape[1:], "float32")
    with pytest.raises(ValueError, match=rf"^{names[1]}=float32"):
        jdeconv.explain(**given)
    with pytest.raises(ValueError, match=rf"^{names[0]}=an array of rank 6: "):
        jdeconv.explain(**dict.fromkeys(names, jax.ShapeDtypeStruct((1,) * 6, "float32")))
