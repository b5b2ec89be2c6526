"""An operand that is read once a tap is computed once: XLA CPU would fuse what computes it into every reader."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdeconv._engine.engine import Engine, materialised
from jdeconv._geometry import build
from jdeconv._operator.primitive import solve

SHAPES = {"input": (4, 12, 12), "kernel": (), "output": (4, 12, 12)}


def computations(f, *operands):
    """The fused computations of the compiled program that compute a cosine, and how many elements each has."""
    text = jax.jit(f).lower(*operands).compile().as_text()
    found = []
    for computation in text.split("\n\n"):
        for shape in re.findall(r"f32\[([\d,]+)\]\S* cosine\(", computation):
            found.append(int(np.prod([*map(int, shape.split(","))])))
    return found


@pytest.mark.parametrize("wave", ["input", "output"])
@pytest.mark.parametrize(
    ("kernel", "padding", "method", "channels"),
    [
        (3, "SAME", "taps", (16, 1, 1)),
        (3, "VALID", "taps", (16, 1, 1)),
        (5, "SAME", "taps", (16, 1, 1)),
        (3, "SAME", "gemm", (1, 8, 16)),
        (3, "VALID", "gemm", (1, 8, 16)),
    ],
)
def test_the_operands_of_a_kernel_gradient(wave, kernel, padding, method, channels):
    groups, i, o = channels
    geometry = build((12, 12), (kernel,) * 2, (1, 1), (1, 1), padding)
    x, y = jnp.ones((4, *geometry.input, groups, i)), jnp.ones((4, *geometry.output, groups, o))

    def f(x, y):
        operands = {"input": x, "output": y}
        operands[wave] = jnp.cos(operands[wave])
        return solve("kernel", geometry, dtype="float32", method=method, **operands)

    size = {"input": x.size, "output": y.size}[wave]
    assert sum(computations(f, x, y)) <= 1.5 * size


def test_the_input_of_a_few_taps():
    geometry = build((12, 12), (4, 4), (2, 2), (1, 1), "SAME")
    x, w = jnp.ones((4, 12, 12, 16, 1)), jnp.ones((4, 4, 1, 16, 1))
    f = lambda x, w: solve("output", geometry, dtype="float32", method="taps", input=jnp.cos(x), kernel=w)  # noqa: E731
    assert computations(f, x, w) == [x.size]


def test_materialised_is_the_identity():
    for value in (jnp.arange(6.0).reshape(2, 3), jnp.float32([[np.nan, -0.0]]), jnp.arange(3)):
        np.testing.assert_array_equal(jax.jit(materialised)(value), value)
    assert Engine(None, np.dtype("float32"), "gpu").materialised(value) is value
