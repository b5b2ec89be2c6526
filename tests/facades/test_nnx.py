"""jdeconv.nnx.ConvTranspose against flax.nnx's: state, outputs, gradients, checkpoints."""

import inspect
import sys
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import RUN_HERE
from flax_cases import layers, same, tolerance
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from peers import needs, peer
from quick import jit, with_gradients

import jdeconv

nnx = peer("flax.nnx")
pytestmark = needs(nnx, "flax")
X = np.random.default_rng(0).standard_normal((2, 5, 6, 4)).astype(np.float32)


def pure(layer):
    return nnx.to_pure_dict(nnx.state(layer))


@given(case=layers())
def test_is_flax_own(case):
    """The same state from the same key (the kernel's is drawn first), outputs and gradients."""
    results = []
    for module in (jdeconv.nnx.ConvTranspose, nnx.ConvTranspose):
        options = dict(case.options, bias_init=jax.nn.initializers.normal())
        layer = module(case.shape[-1], case.features, **options, rngs=nnx.Rngs(3))
        graph, state = nnx.split(layer)
        flat, rebuild = ravel_pytree(state)
        results.append((pure(layer), flat, lambda p, x, g=graph, r=rebuild: nnx.merge(g, r(p))(x)))
    (state, flat, ours), (expected, _, theirs) = results
    same(state, expected)
    both = jit(lambda p, x: [with_gradients(f, p, x) for f in (ours, theirs)])(flat, case.x)
    kind = np.float32 if all(a.dtype == np.float32 for a in jax.tree.leaves((both, state))) else jnp.bfloat16
    for got, want in zip(*both, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        np.testing.assert_allclose(got.astype("float32"), want.astype("float32"), **tolerance(kind), err_msg=repr(case))


@given(case=layers(), method=st.sampled_from(sorted(RUN_HERE)))
def test_every_method_gives_flax_output(case, method):
    ours = jdeconv.nnx.ConvTranspose(case.shape[-1], case.features, **case.options, method=method, rngs=nnx.Rngs(1))
    theirs = nnx.ConvTranspose(case.shape[-1], case.features, **case.options, rngs=nnx.Rngs(1))
    got, want = jit(lambda x: (ours(x), theirs(x)))(case.x)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    kind = jnp.bfloat16 if case.narrow else np.float32
    np.testing.assert_allclose(got.astype("float32"), want.astype("float32"), **tolerance(kind), err_msg=repr(case))


def test_the_constructor_takes_what_flax_takes():
    """Flax's arguments in Flax's order, kinds, defaults and types, and after them our own."""
    theirs = inspect.signature(nnx.ConvTranspose.__init__).parameters
    mine = inspect.signature(jdeconv.nnx.ConvTranspose.__init__).parameters
    own = ["feature_group_count", "method"]
    assert [*mine] == [*theirs, *own]
    for name, argument in theirs.items():
        assert (mine[name].kind, mine[name].default) == (argument.kind, argument.default), name
    modules = jdeconv.nnx, sys.modules[nnx.ConvTranspose.__module__]
    ours, flax = (
        typing.get_type_hints(m.ConvTranspose.__init__, {**vars(m), "tp": typing, "nnx": nnx}) for m in modules
    )
    called = [[*inspect.signature(m.ConvTranspose.__call__).parameters] for m in modules]
    assert called[0] == [*called[1], "output_shape"]
    for name in theirs.keys() - {"self"}:
        assert spelt(ours[name]) == spelt(flax[name]), name


def spelt(kind):
    """The members of a union, or the type itself, `typing.Sequence` and `collections.abc.Sequence` being one."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return {str(each).replace("collections.abc.", "typing.") for each in (typing.get_args(kind) if union else [kind])}


def test_every_argument_reaches_flax():
    """Each with another value than its default."""
    given = dict(
        padding="VALID", kernel_dilation=2, use_bias=False, mask=np.ones((3, 2, 6, 4), np.float32), dtype="bfloat16",
        param_dtype="bfloat16", precision="highest", transpose_kernel=True,
        promote_dtype=lambda arrays, dtype: arrays, preferred_element_type="float32",
    )  # fmt: skip
    layer = jdeconv.nnx.ConvTranspose(4, 6, (3, 2), (2, 3), **given, rngs=nnx.Rngs(0))
    for name, value in given.items():
        assert getattr(layer, name) is value, name
    assert (layer.strides, layer.kernel[...].dtype, layer.bias) == ((2, 3), jnp.bfloat16, None)
    zeros, ones = jax.nn.initializers.zeros, jax.nn.initializers.ones
    layer = jdeconv.nnx.ConvTranspose(4, 6, (3, 2), kernel_init=zeros, bias_init=ones, rngs=nnx.Rngs(0))
    assert (float(layer.kernel[...].sum()), float(layer.bias[...].sum())) == (0, 6)


def test_metadata_reaches_flax():
    layer = jdeconv.nnx.ConvTranspose(
        4, 6, (3, 2), rngs=nnx.Rngs(0), kernel_metadata=dict(a=1), bias_metadata=dict(b=2)
    )
    assert (layer.kernel.get_metadata()["a"], layer.bias.get_metadata()["b"]) == (1, 2)


def test_an_argument_that_flax_has_not_is_refused():
    with pytest.raises(TypeError, match="paddding"):
        jdeconv.nnx.ConvTranspose(4, 6, (3, 2), paddding="SAME", rngs=nnx.Rngs(0))


class Two(nnx.Module if nnx else object):
    """Flax's layer after one that is derived from it."""

    def __init__(self, first, second):
        options = dict(rngs=nnx.Rngs(0), bias_init=jax.nn.initializers.normal())
        self.one, self.other = first(4, 4, (3, 2), (2, 3), **options), second(4, 3, (3, 2), **options)

    def __call__(self, x):
        return self.other(self.one(x))


def test_a_capture_sees_one_call_of_a_layer():
    """Also in a model that has Flax's own, whose class is changed while `nnx.capture` looks on."""
    kept = []
    for module in (jdeconv.nnx.ConvTranspose, nnx.ConvTranspose):
        model = Two(module, nnx.ConvTranspose)
        y, captured = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)(X)
        np.testing.assert_array_equal(captured["__call__"].get_value()[0], y)
        kept.append({path: [np.asarray(v) for v in each.get_value()] for path, each in nnx.to_flat_state(captured)})
    ours, theirs = kept
    assert {path: len(each) for path, each in ours.items()} == dict.fromkeys(theirs, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_a_table_has_one_row_for_a_layer():
    tables = []
    for module in (jdeconv.nnx.ConvTranspose, nnx.ConvTranspose):
        # Classes of this test's own: Flax leaves what it has put into a class there.
        first, second = (type("ConvTranspose", (m,), {}) for m in (module, nnx.ConvTranspose))
        tables.append(nnx.tabulate(Two(first, second), X, console_kwargs=dict(width=200)))
    assert tables[0].count("ConvTranspose") == tables[1].count("ConvTranspose") == 2


def test_a_function_of_the_users_keeps_its_own_convolutions():
    """What a function of the layer's jits is not traced with the layer's convolution in lax's place."""
    w = np.ones((3, 3, 4, 6), np.float32)

    @jax.jit
    def helper(x, w):
        return jax.lax.conv_transpose(x, w, (2, 2), "SAME")

    def promote(arrays, dtype):
        helper(X, w)
        return arrays

    jdeconv.nnx.ConvTranspose(4, 6, (3, 2), (2, 3), promote_dtype=promote, rngs=nnx.Rngs(0))(X)
    assert "transposed_convolution" not in str(jax.make_jaxpr(helper)(X, w))


def test_states_interchange():
    ours, theirs = (
        m(4, 6, (3, 2), (2, 3), rngs=nnx.Rngs(i)) for i, m in enumerate([jdeconv.nnx.ConvTranspose, nnx.ConvTranspose])
    )
    nnx.update(ours, nnx.state(theirs))
    same(pure(ours), pure(theirs))
    np.testing.assert_allclose(ours(X), theirs(X), rtol=1e-4, atol=1e-5)
    again = nnx.ConvTranspose(4, 6, (3, 2), (2, 3), rngs=nnx.Rngs(7))
    state = nnx.state(again)
    nnx.replace_by_pure_dict(state, pure(ours))
    nnx.update(again, state)
    same(pure(again), pure(theirs))


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_groups(transpose_kernel):
    """Each group is a layer of its own, with its part of kernel, mask and bias."""
    shape = (3, 2, 3, 4) if transpose_kernel else (3, 2, 2, 6)
    mask = (np.random.default_rng(1).random(shape) < 0.5).astype(np.float32)
    options = dict(strides=(2, 3), transpose_kernel=transpose_kernel, rngs=nnx.Rngs(0))
    layer = jdeconv.nnx.ConvTranspose(
        4, 6, (3, 2), feature_group_count=2, mask=mask, bias_init=jax.nn.initializers.normal(), **options
    )
    assert layer.kernel[...].shape == shape
    parts = []
    for group, x in enumerate(np.split(X, 2, -1)):
        one = nnx.ConvTranspose(2, 3, (3, 2), **options)
        one.kernel[...], one.bias[...] = (
            jnp.split(v, 2, -1)[group] for v in (layer.kernel[...] * mask, layer.bias[...])
        )
        parts.append(one(x))
    np.testing.assert_allclose(layer(X), jnp.concatenate(parts, -1), rtol=1e-4, atol=1e-5)


def test_output_shape_and_method():
    layer = jdeconv.nnx.ConvTranspose(4, 6, (3, 2), (2, 3), method="gemm", rngs=nnx.Rngs(0))
    whole = layer(X)
    np.testing.assert_allclose(layer(X, output_shape=(10, 17)), whole[:, :, :17], rtol=1e-4, atol=1e-5)
    assert "method=gemm" in str(jax.make_jaxpr(layer)(X))
    with pytest.raises(ValueError, match="height 11 is not reachable from input height 5 with stride 2, SAME padding"):
        layer(X, output_shape=(11, 17))
    with pytest.raises(
        ValueError, match="feature_group_count=3: 4 and 6 input and output features; expected a divisor"
    ):
        jdeconv.nnx.ConvTranspose(4, 6, (3, 2), feature_group_count=3, rngs=nnx.Rngs(0))


# x, the layer's options, the message: in the layer's names, not lax's.
REFUSED = [
    (X[..., :3], dict(),
     "kernel=float32[3, 2, 4, 6]: 4 input channels; expected those of inputs=float32[2, 5, 6, 3], 3 in all. "
     "Give the layer as many features as it was made for."),
    (X[0, 0], dict(),
     "kernel=float32[3, 2, 4, 6]: 4 dimensions; expected as many as inputs=float32[6, 4] has, and at least 2. "
     "Both have their spatial dimensions and two more."),
    (X, dict(promote_dtype=lambda arrays, dtype: (jnp.float16(arrays[0]), *arrays[1:])),
     "kernel=float32[3, 2, 4, 6]: dtype float32; expected float16, as inputs=float16[2, 5, 6, 4] has. "
     "Cast one of the two, for example with kernel.astype(inputs.dtype)."),
    (X, dict(dtype="float8_e4m3fn"),
     "inputs=float8_e4m3fn[2, 5, 6, 4]: dtype float8_e4m3fn; expected floats of 16 bits or more, complex numbers or "
     "integers of 8 bits or more. Cast it, or call jax.lax.conv_transpose."),
    (X, dict(kernel_dilation=(1, 1, 1)),
     "kernel_dilation=(1, 1, 1): not one int a spatial dimension; expected a sequence of 2. "
     "Give one for each, in the order of the kernel's dimensions."),
    (X[:, None, None], dict(kernel_size=(1, 1, 3, 2), strides=1),
     "kernel=float32[1, 1, 3, 2, 4, 6]: 6 dimensions; expected 2, 3, 4 or 5. "
     "Call jdeconv.lax.conv_transpose, with dimension_numbers."),
]  # fmt: skip


@pytest.mark.parametrize(("x", "options", "message"), REFUSED)
def test_refused(x, options, message):
    layer = jdeconv.nnx.ConvTranspose(4, 6, **dict(kernel_size=(3, 2), strides=(2, 3)) | options, rngs=nnx.Rngs(0))
    with pytest.raises((ValueError, TypeError)) as refused:
        layer(x)
    assert str(refused.value).split("\n")[0] == message


def test_output_shape_may_be_symbolic():
    """Exported once, it gives what int sizes give."""
    layer = jdeconv.nnx.ConvTranspose(4, 6, (3, 2), (2, 3), padding="VALID", rngs=nnx.Rngs(0))
    f = jax.jit(lambda x: layer(x, output_shape=(x.shape[1] * 2 + 2, x.shape[2] * 3)))
    shape = jax.export.symbolic_shape("b, h, w, 4")
    exported = jax.export.export(f)(jax.ShapeDtypeStruct(shape, "float32"))
    assert str(exported.out_avals[0].shape) == "(b, 2*h + 2, 3*w, 6)"
    np.testing.assert_allclose(exported.call(X), f(X), rtol=1e-5, atol=1e-5)


def test_what_flax_gives_an_initialiser_reaches_it(monkeypatch):
    """By name too, as `out_sharding` may be."""
    monkeypatch.setattr(
        nnx.ConvTranspose, "__init__",
        lambda self, *_, kernel_init, rngs, **__: vars(self).update(
            kernel_shape=(3, 4, 6), drawn=kernel_init(rngs.params(), (3, 4, 6), "bfloat16", out_sharding=None)
        ),
    )  # fmt: skip
    layer = jdeconv.nnx.ConvTranspose(4, 6, (3,), feature_group_count=2, rngs=nnx.Rngs(0))
    assert (layer.drawn.shape, layer.drawn.dtype) == ((3, 2, 6), "bfloat16")
