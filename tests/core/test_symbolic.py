"""Exports for sizes that are sums, such as h - 1, of whose products nothing can be compared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import jdeconv

FUNCTIONS = {1: jdeconv.conv1d_transpose, 2: jdeconv.conv2d_transpose, 3: jdeconv.conv3d_transpose}
KERNELS = {  # kernel, stride, groups, input channels and outputs of a group
    "one block": (2, 2, 1, 16, 8),
    "4x4 to RGB": (4, 2, 1, 16, 3),
    "odd": (3, 2, 1, 8, 16),
    "stride 1": (3, 1, 1, 8, 8),
    "gaps": (1, 2, 1, 4, 4),
    "depthwise": (3, 1, 8, 1, 1),
    "depthwise, strided": (4, 2, 8, 1, 1),
    "grouped": (3, 2, 2, 8, 8),
}


def cut(f):
    """`f` of the image without its first row, column and so on: its sizes are sums."""
    return lambda x, w: f(x[(slice(None), *[slice(1, None)] * (x.ndim - 2))], w)


def exported(f, rank, x, w):
    """The function exported for any batch and any sizes."""
    names = ["h", "v", "u"][:rank]
    b, *sizes = export.symbolic_shape(", ".join(["b", *names]), constraints=[f"{name} >= 4" for name in names])
    shapes = jax.ShapeDtypeStruct((b, *sizes, x.shape[-1]), x.dtype), jax.ShapeDtypeStruct(w.shape, w.dtype)
    program = export.export(jax.jit(cut(f)), platforms=["cpu", "tpu", "cuda"])(*shapes)
    return export.deserialize(program.serialize()).call


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    ("rank", "name", "method"),
    [
        *((2, name, "auto") for name in KERNELS),
        *((rank, name, "auto") for rank in (1, 3) for name in ("one block", "odd", "depthwise, strided")),
        *((2, name, method) for method in ("lax", "phase", "gemm", "taps") for name in ("odd", "depthwise")),
    ],
)
def test_values_and_gradients(rank, name, method):
    kernel, stride, groups, inputs, outputs = KERNELS[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *range(4, 4 + rank), groups * inputs), "float32")
    w = rng.standard_normal((*(kernel,) * rank, outputs, groups * inputs), "float32")

    def f(x, w):
        shape = (x.shape[0], *(size * stride for size in x.shape[1:-1]), groups * outputs)
        return FUNCTIONS[rank](x, w, shape, stride, method=method)

    for function in (f, jax.grad(lambda x, w: jnp.sin(f(x, w)).sum(), (0, 1))):
        found, wanted = exported(function, rank, x, w)(x, w), cut(function)(x, w)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, wanted)


@pytest.mark.sampled(19)
@pytest.mark.parametrize("method", ["auto", "lax", "phase", "gemm", "taps"])
@pytest.mark.parametrize("name", ["odd", "stride 1", "depthwise, strided", "grouped"])
def test_sums_that_may_be_zero(name, method):
    """h is known to be a size and nothing more, so that h - 1, and b - 1, may be 0."""
    kernel, stride, groups, inputs, outputs = KERNELS[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5, groups * inputs), "float32")
    w = rng.standard_normal((kernel, outputs, groups * inputs), "float32")

    def f(x, w):
        x = x[1:, 1:]
        return jdeconv.conv1d_transpose(x, w, (-1, x.shape[1] * stride, groups * outputs), stride, method=method)

    for function in (f, jax.grad(lambda x, w: jnp.sin(f(x, w)).sum(), (0, 1))):
        shapes = jax.ShapeDtypeStruct(export.symbolic_shape(f"b, h, {x.shape[-1]}"), x.dtype), w
        program = export.export(jax.jit(function), platforms=["cpu", "tpu", "cuda"])(*shapes).call
        for size in (5, 2):
            found, wanted = program(x[:, :size], w), function(x[:, :size], w)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, wanted)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_what_lax_exports_is_exported_under_patch(padding):
    """After a VALID convolution the sizes are sums."""

    def f(x, w):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, jnp.ones((2, 2, 4, 4)), (1, 1), "VALID", dimension_numbers=numbers)
        return lax.conv_transpose(x, w, (2, 2), padding)

    x, w = np.ones((2, 5, 6, 4), "float32"), np.ones((3, 3, 4, 2), "float32")
    for function in (f, jax.grad(lambda x, w: jnp.sin(f(x, w)).sum(), (0, 1))):
        with jdeconv.patch():
            found = exported(function, 2, x, w)(x, w)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, cut(function)(x, w))
