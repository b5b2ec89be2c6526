"""What jdeconv.torch, jdeconv.onnx and jdeconv.keras share: transformations, types, meshes, the bias, their refusals.

Their numbers are in test_torch.py, test_onnx.py and test_keras.py. The whole messages stand in refused_peers.txt.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import Case
from peers import trace

import jdeconv

CASE = Case(2, (3, 4), (3, 2), (2, 2), (1, 1), ((1, 0), (0, 1)), (6, 7), group_inputs=4, group_outputs=6)


def like_torch(x, w):
    y = jdeconv.torch.conv_transpose2d(jnp.moveaxis(x, -1, -3), jnp.moveaxis(w, (-1, -2), (0, 1)), stride=2)
    return jnp.moveaxis(y, -3, -1)[..., 1:, :-1, :]


def like_onnx(x, w):
    x, w = jnp.moveaxis(x, -1, 1), jnp.moveaxis(w, (-1, -2), (0, 1))
    return jnp.moveaxis(jdeconv.onnx.conv_transpose(x, w, strides=[2, 2], pads=[1, 0, 0, 1]), 1, -1)


def like_keras(x, w):
    y = jdeconv.keras.conv_transpose(x, w, 2, output_padding=0, data_format="channels_last")
    return y[:, 1:, :-1]


FUNCTIONS = {"torch": like_torch, "onnx": like_onnx, "keras": like_keras}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "complex64"])
def test_values_and_gradients(name, dtype):
    """NumPy operands, compiled; both gradients."""
    case = Case(**{**vars(CASE), "dtype": dtype})
    case.check(case.run(function=FUNCTIONS[name]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_eager_vmap_and_hessian(name):
    f, (x, w, _) = FUNCTIONS[name], CASE.arrays()
    y = f(x, w)
    np.testing.assert_allclose(jax.vmap(lambda one: f(one[None], w)[0])(x), y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(f, (None, 0))(x, np.stack([w, 2 * w]))[1], 2 * y, rtol=1e-5, atol=1e-5)
    assert jax.hessian(lambda s: f(s * x, s * w).sum())(1.0) == pytest.approx(2 * float(y.sum()), rel=1e-4)


def test_unbatched():
    x, w, _ = CASE.arrays()
    np.testing.assert_allclose(like_torch(x[0], w), like_torch(x, w)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_symbolic_batch_is_exported(name):
    x, w, _ = CASE.arrays()
    (n,) = jax.export.symbolic_shape("n")
    shapes = jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), jax.ShapeDtypeStruct(w.shape, w.dtype)
    exported = jax.export.export(jax.jit(FUNCTIONS[name]))(*shapes)
    np.testing.assert_allclose(exported.call(x, w), FUNCTIONS[name](x, w), rtol=1e-5, atol=1e-5)


def test_on_a_mesh_with_explicit_axes():
    mesh = jax.make_mesh((2, 2), ("data", "model"), (jax.sharding.AxisType.Explicit,) * 2)
    x, w, b = (
        np.random.default_rng(0).standard_normal(s).astype("float32") for s in ((4, 4, 3, 5), (4, 6, 2, 2), (6,))
    )
    want = jdeconv.torch.conv_transpose2d(x, w, b, stride=2)
    with jax.set_mesh(mesh):
        split = jax.device_put(x, jax.P("data")), jax.device_put(w, jax.P(None, "model")), jax.device_put(b, jax.P())
        y = jax.jit(lambda *o: jdeconv.torch.conv_transpose2d(*o, stride=2))(*split)
    assert jax.typeof(y).sharding.spec == jax.P("data", "model", None, None)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_gradient_of_a_bias_is_summed_in_float32(dtype):
    """Of 4 * 60 * 60 cotangents; summed in bfloat16 it would be a tenth off."""
    x, w, b = jnp.ones((4, 1, 60, 60), dtype), jnp.ones((1, 3, 1, 1), dtype), jnp.ones(3, dtype)
    y, pull = jax.vjp(lambda b: jdeconv.torch.conv_transpose2d(x, w, b), b)
    cotangent = np.random.default_rng(0).uniform(0, 2, y.shape).astype(dtype)
    want = cotangent.astype("float64").sum((0, 2, 3))
    np.testing.assert_allclose(np.asarray(pull(cotangent)[0], "float64"), want, rtol=float(jnp.finfo(dtype).eps))


def test_a_result_of_another_type_has_its_bias():
    x, w, b = jnp.ones((1, 1, 2), "int8"), jnp.ones((1, 1, 2), "int8"), jnp.full(1, 100, "int8")
    y = jdeconv.torch.conv_transpose1d(x, w, b, preferred_element_type="int32")
    np.testing.assert_array_equal(y[0, 0], np.array([101, 102, 101], "int32"))
    assert y.dtype == "int32"


def test_a_bias_is_added_where_no_tap_reaches():
    y = jdeconv.onnx.conv_transpose(np.ones((1, 1, 1)), np.ones((1, 1, 1)), np.full(1, 5.0), output_shape=[4])
    np.testing.assert_array_equal(y[0, 0], [5, 6, 5, 5])


@pytest.mark.parametrize("method", ["lax", "phase", "gemm", "taps"])
def test_methods(method):
    x, w, _ = CASE.arrays()
    want = oracle.transpose_conv(CASE, x, w)
    y = jdeconv.onnx.conv_transpose(
        np.moveaxis(x, -1, 1), np.moveaxis(w, (-1, -2), (0, 1)), strides=2, pads=[1, 0, 0, 1], method=method
    )
    np.testing.assert_allclose(np.moveaxis(y, 1, -1), want, rtol=1e-4, atol=1e-4)


# Refusals: a row changes the good call.

X, W = np.zeros((2, 4, 5, 7), np.float32), np.zeros((4, 3, 3, 2), np.float32)
ONNX, KERAS = dict(X=X, W=W), dict(inputs=np.moveaxis(X, 1, -1), kernel=np.zeros((3, 2, 6, 4), np.float32))
GOOD = {
    "torch.conv_transpose1d": dict(input=X[..., 0], weight=W[..., 0]),
    "torch.conv_transpose2d": dict(input=X, weight=W),
    "torch.conv_transpose3d": dict(input=X[..., None], weight=W[..., None]),
    "onnx.conv_transpose": ONNX,
    "keras.conv_transpose": KERAS,
}
ROWS = {
    "torch.conv_transpose1d": {
        "rank": dict(input=X),
        "stride of length 2": dict(stride=(2, 2)),
        "output_padding": dict(output_padding=2, dilation=2),
    },
    "torch.conv_transpose2d": {
        "rank": dict(input=X[0, 0]),
        "weight's rank": dict(weight=W[0]),
        "no weight": dict(weight=None),
        "two dtypes": dict(weight=W.astype("float16")),
        "int64": dict(input=X.astype("int64")),
        "empty input": dict(input=X[..., :0]),
        "no channels": dict(input=X[:, :0], weight=W[:0]),
        "empty kernel": dict(weight=W[..., :0]),
        "weight's input channels": dict(weight=W[:3]),
        "stride 0": dict(stride=0),
        "stride a float": dict(stride=1.5),
        "stride None": dict(stride=None),
        "stride of length 3": dict(stride=(1, 1, 1)),
        "dilation 0": dict(dilation=0),
        "padding negative": dict(padding=-1),
        "padding a string": dict(padding="same"),
        "nothing left": dict(padding=(4, 5)),
        "output_padding": dict(stride=(2, 3), output_padding=2),
        "output_padding negative": dict(output_padding=-1),
        "groups 0": dict(groups=0),
        "groups that do not divide": dict(groups=3),
        "groups None": dict(groups=None),
        "bias of another size": dict(bias=np.zeros(4, np.float32)),
        "bias of a group": dict(bias=np.zeros(3, np.float32), groups=2),
        "bias of two dimensions": dict(bias=np.zeros((1, 3), np.float32)),
        "bias of another type": dict(bias=np.zeros(3, np.float16)),
        "bias no array": dict(bias="zeros"),
        "method": dict(method="fft"),
        "precision": dict(precision="exact"),
        "preferred_element_type": dict(preferred_element_type="int32"),
    },
    "torch.conv_transpose3d": {"rank": dict(input=X[0]), "nothing left": dict(padding=(0, 0, 1))},
    "onnx.conv_transpose": {
        "rank": dict(X=X[0, 0]),
        "W's rank": dict(W=W[0]),
        "two dtypes": dict(W=W.astype("float16")),
        "input channels": dict(W=W[:3]),
        "empty kernel": dict(W=W[..., :0]),
        "auto_pad unknown": dict(auto_pad="same_upper"),
        "auto_pad and pads": dict(auto_pad="VALID", pads=[0, 0, 0, 0]),
        "pads negative": dict(pads=[0, 0, -1, 0]),
        "pads of length 2": dict(pads=[1, 1]),
        "nothing left": dict(pads=[4, 0, 4, 0]),
        "strides of length 1": dict(strides=[2]),
        "strides 0": dict(strides=[1, 0]),
        "dilations 0": dict(dilations=[0, 1]),
        "output_padding": dict(strides=[2, 2], output_padding=[1, 2]),
        "output_shape negative": dict(output_shape=[-1, 7]),
        "output_shape with channels": dict(output_shape=[2, 3, 7, 8]),
        "kernel_shape": dict(kernel_shape=[3, 3]),
        "kernel_shape of length 1": dict(kernel_shape=[3]),
        "group": dict(group=3),
        "B": dict(B=np.zeros(4, np.float32)),
        "B of another type": dict(B=np.zeros(3, np.float16)),
    },
    "keras.conv_transpose": {
        "rank": dict(inputs=X[0, 0]),
        "kernel's rank": dict(kernel=W[0]),
        "two dtypes": dict(kernel=W.astype("float16")),
        "input channels": dict(kernel=KERAS["kernel"][..., :3]),
        "empty kernel": dict(kernel=KERAS["kernel"][:0]),
        "strides of length 1": dict(strides=(2,)),
        "strides 0": dict(strides=0),
        "dilation_rate": dict(dilation_rate=(1, 1, 1)),
        "output_padding negative": dict(output_padding=-1),
        "output_padding of length 1": dict(output_padding=[1]),
        "padding unknown": dict(padding="causal"),
        "padding None": dict(padding=None),
        "data_format": dict(data_format="NHWC"),
        "channels first": dict(data_format="channels_first"),
    },
}
CALLS = {f"{function}, {name}": (function, change) for function, rows in ROWS.items() for name, change in rows.items()}
MESSAGES = dict(
    line.split(" | ", 1) for line in (pathlib.Path(__file__).parent / "refused_peers.txt").read_text().splitlines()
)


@pytest.mark.parametrize("name", CALLS)
def test_refused_with_the_whole_message(name):
    (library, function), change = CALLS[name][0].split("."), CALLS[name][1]
    function, call = getattr(getattr(jdeconv, library), function), {**GOOD[CALLS[name][0]], **change}
    if library == "keras":
        call.setdefault("data_format", "channels_last")
    for run in (lambda: function(**call), lambda: trace(function, call))[: 1 if "int64" in name else 2]:
        with pytest.raises((ValueError, TypeError)) as caught:
            run()
        assert f"{type(caught.value).__name__}: {caught.value}" == MESSAGES[name]


def test_every_message_has_a_row():
    assert list(MESSAGES) == list(CALLS)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_strict_promotion_lets_a_bias_be_added(dtype):
    x, w, b = (jnp.ones(shape, dtype) for shape in ((1, 2, 3, 3), (2, 4, 2, 2), (4,)))
    with jax.numpy_dtype_promotion("strict"):
        assert jdeconv.torch.conv_transpose2d(x, w, b).dtype == dtype
