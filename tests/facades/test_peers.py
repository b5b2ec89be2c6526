"""What jdeconv.torch, jdeconv.onnx and jdeconv.keras share: transformations, types, meshes, the bias.

Their numbers are in test_torch.py, test_onnx.py and test_keras.py. What they refuse: test_errors.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import Case

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


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "complex64"])
def test_values_and_gradients(name, dtype):
    """NumPy operands, compiled; both gradients."""
    case = Case(**{**vars(CASE), "dtype": dtype})
    case.check(case.run(function=FUNCTIONS[name]))


@pytest.mark.sampled(3)
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
    """4 * 60 * 60 cotangents: summed in bfloat16, the gradient would be off by a tenth."""
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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_strict_promotion_lets_a_bias_be_added(dtype):
    x, w, b = (jnp.ones(shape, dtype) for shape in ((1, 2, 3, 3), (2, 4, 2, 2), (4,)))
    with jax.numpy_dtype_promotion("strict"):
        assert jdeconv.torch.conv_transpose2d(x, w, b).dtype == dtype
