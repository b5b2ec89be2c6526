"""jdeconv.linen.ConvTranspose against flax.linen's: parameters, outputs, gradients, checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import RUN_HERE
from flax_cases import layers, same, tolerance
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from jax.flatten_util import ravel_pytree
from peers import needs, peer
from quick import jit, with_gradients

import jdeconv

linen = peer("flax.linen")
pytestmark = needs(linen, "flax")
X = np.random.default_rng(0).standard_normal((2, 5, 6, 4)).astype(np.float32)


@given(case=layers())
def test_is_flax_own(case):
    ours, theirs = (m(case.features, **case.options) for m in (jdeconv.linen.ConvTranspose, linen.ConvTranspose))

    def everything(key, x):
        found = []
        for layer in (ours, theirs):
            variables = layer.init(key, x)
            params, rebuild = ravel_pytree(variables)
            found.append((variables, with_gradients(lambda p, x: layer.apply(rebuild(p), x), params, x)))  # noqa: B023
        return found

    (variables, found), (expected, wanted) = jit(everything)(jax.random.key(3), case.x)
    same(variables, expected)
    for got, want in zip(found, wanted, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        kind = np.float32 if all(a.dtype == np.float32 for a in (*found, *jax.tree.leaves(variables))) else jnp.bfloat16
        np.testing.assert_allclose(got.astype("float32"), want.astype("float32"), **tolerance(kind), err_msg=repr(case))


@given(case=layers(), method=st.sampled_from(sorted(RUN_HERE)))
def test_every_method_gives_flax_output(case, method):
    ours = jdeconv.linen.ConvTranspose(case.features, **case.options, method=method)
    theirs = linen.ConvTranspose(case.features, **case.options)

    def both(key, x):
        variables = theirs.init(key, x)
        return ours.apply(variables, x), theirs.apply(variables, x)

    got, want = jit(both)(jax.random.key(1), case.x)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    kind = jnp.bfloat16 if case.narrow else np.float32
    np.testing.assert_allclose(got.astype("float32"), want.astype("float32"), **tolerance(kind), err_msg=repr(case))


class Net(linen.Module if linen else object):
    layer: type

    if linen:

        @linen.compact
        def __call__(self, x):
            return self.layer(3, (3, 3), (2, 1))(linen.relu(self.layer(5, (2, 4), (2, 2))(x)))


def test_checkpoints_interchange():
    """In a model, whose parameters are named for the class; through flax.serialization, both ways."""
    from flax import serialization

    ours, theirs = Net(jdeconv.linen.ConvTranspose), Net(linen.ConvTranspose)
    mine, yours = (net.init(jax.random.key(0), X) for net in (ours, theirs))
    same(mine, yours)
    assert set(mine["params"]) == {"ConvTranspose_0", "ConvTranspose_1"}
    zeros = jax.tree.map(jnp.zeros_like, mine)
    same(serialization.from_bytes(zeros, serialization.to_bytes(yours)), mine)
    np.testing.assert_allclose(ours.apply(yours, X), theirs.apply(mine, X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_groups(transpose_kernel, mask):
    """Each group is a layer of its own, with its part of kernel and bias."""
    shape = (3, 2, 3, 4) if transpose_kernel else (3, 2, 2, 6)
    options = dict(kernel_size=(3, 2), strides=(2, 3), transpose_kernel=transpose_kernel)
    masked = (np.random.default_rng(1).random(shape) < 0.5).astype(np.float32) if mask else None
    layer = jdeconv.linen.ConvTranspose(
        6, feature_group_count=2, mask=masked, bias_init=linen.initializers.ones, **options
    )
    variables = layer.init(jax.random.key(0), X)
    params = variables["params"]
    assert params["kernel"].shape == shape
    kernel = params["kernel"] * (1 if masked is None else masked)
    parts = [
        linen.ConvTranspose(3, **options).apply({"params": {"kernel": kernel[..., half], "bias": bias}}, x)
        for half, bias, x in zip(
            (slice(2), slice(2, 4)) if transpose_kernel else (slice(3), slice(3, 6)),
            jnp.split(params["bias"], 2), np.split(X, 2, -1), strict=True,
        )
    ]  # fmt: skip
    np.testing.assert_allclose(layer.apply(variables, X), jnp.concatenate(parts, -1), rtol=1e-4, atol=1e-5)
    assert layer.mask is masked


@pytest.mark.parametrize(
    ("padding", "forward", "sizes"),
    [
        ("SAME", "SAME", (9, 16)),
        ("VALID", "VALID", (12, 18)),
        (((2, 1), (1, 0)), ((0, 1), (0, 1)), (11, 18)),
    ],
)
def test_output_shape(padding, forward, sizes):
    """The transpose of a strided convolution that maps images of these sizes to the input's."""
    layer = jdeconv.linen.ConvTranspose(3, (3, 2), (2, 3), padding=padding, transpose_kernel=True)
    variables = layer.init(jax.random.key(0), X)

    def convolution(image):
        kernel = variables["params"]["kernel"]
        return lax.conv_general_dilated(image, kernel, (2, 3), forward, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    (want,) = jax.linear_transpose(convolution, jax.ShapeDtypeStruct((2, *sizes, 3), jnp.float32))(X)
    np.testing.assert_allclose(layer.apply(variables, X, output_shape=sizes), want, rtol=1e-4, atol=1e-5)


REFUSED = [
    (
        dict(), dict(output_shape=(11, 18)),
        "output_shape=(11, 18): height 11 is not reachable from input height 5 with stride 2, SAME padding; "
        "reachable: 9 or 10. Ask for 10, or pass None for the default size.",
    ),
    (
        dict(padding="CIRCULAR"), dict(output_shape=(10, 18)),
        "output_shape=(10, 18): given with CIRCULAR padding; expected None. "
        "The output wraps around at input size times stride; crop or pad it.",
    ),
    (
        dict(feature_group_count=3), dict(),
        "feature_group_count=3: 4 and 6 input and output features; expected a divisor of both. "
        "Use 1, the default, for one group.",
    ),
    (
        dict(feature_group_count=2, mask=np.array([1, 0, 1, 0, 1, 0], np.float32)), dict(),
        "mask=float32[6]: not of the kernel's shape; expected (3, 2, 2, 6). "
        "Give a number for each of the kernel's; with feature_group_count its channels are a group's.",
    ),
    (
        dict(feature_group_count=2, mask=np.ones((3, 2, 4, 6), np.float32)), dict(),
        "mask=float32[3, 2, 4, 6]: not of the kernel's shape; expected (3, 2, 2, 6). "
        "Give a number for each of the kernel's; with feature_group_count its channels are a group's.",
    ),
    (
        dict(padding="CAUSAL"), dict(),
        "padding='CAUSAL': unknown; expected 'SAME', 'VALID' or 2 [low, high] pairs. "
        "Spell a string in capitals, or list the pairs.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("options", "call", "message"), REFUSED)
def test_refused(options, call, message):
    layer = jdeconv.linen.ConvTranspose(6, (3, 2), (2, 3), **options)
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        layer.init(jax.random.key(0), X, **call)
    assert str(refused.value).split("\n")[0] == message


def test_method_is_used():
    layer = jdeconv.linen.ConvTranspose(6, (3, 2), (2, 3), method="gemm")
    variables = layer.init(jax.random.key(0), X)
    assert "method=gemm" in str(jax.make_jaxpr(layer.apply)(variables, X))


def test_output_shape_may_be_symbolic():
    """Exported once, it gives what int sizes give."""
    layer = jdeconv.linen.ConvTranspose(6, (3, 2), (2, 3))
    variables = layer.init(jax.random.key(0), X)
    f = jax.jit(lambda x: layer.apply(variables, x, output_shape=(x.shape[1] * 2 - 1, x.shape[2] * 3)))
    shape = jax.export.symbolic_shape("b, h, w, 4", constraints=["h >= 2"])
    exported = jax.export.export(f)(jax.ShapeDtypeStruct(shape, "float32"))
    assert str(exported.out_avals[0].shape) == "(b, 2*h - 1, 3*w, 6)"
    np.testing.assert_allclose(exported.call(X), f(X), rtol=1e-5, atol=1e-5)
