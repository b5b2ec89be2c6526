"""jdeconv.patch: what is routed and what is not, with lax's results, types and errors; models unedited."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import RUN_HERE
from hypothesis import given
from jax import lax
from lax_calls import calls
from patching import ORIGINALS, W, X, dilated, program, routed, transposed
from peers import needs, peer
from quick import jit, with_gradients

import jdeconv

linen, nnx, haiku, equinox = peer("flax.linen"), peer("flax.nnx"), peer("haiku"), peer("equinox")
pytestmark = pytest.mark.usefixtures("lax_restored")


@given(call=calls().filter(lambda call: call.legal and not call.overreaches))
def test_routed_calls_give_lax_results(call):
    """conv_transpose, and the conv_general_dilated that it makes; both gradients."""
    found = {key: value for key, value in call.convolution.items() if key != "out_sharding"}

    def whole(x, w):
        return lax.conv_transpose(x, w, **call.arguments)

    def made_of_it(x, w):
        rhs_spec = found["dimension_numbers"].rhs_spec
        turned = jnp.flip(w, rhs_spec[2:]).swapaxes(*rhs_spec[:2]) if call.transpose_kernel else w
        return lax.conv_general_dilated(x, turned, **found)

    def everything(x, w):
        return [with_gradients(f, x, w) for f in (whole, made_of_it)]

    with jax.enable_x64(True):
        x, w = call.arrays()
        with jdeconv.patch():
            assert routed(whole, x, w)
            assert routed(made_of_it, x, w)
        with jdeconv.patch(only="transposed"):
            assert routed(made_of_it, x, w) == (max(found["lhs_dilation"], default=1) > 1)
        theirs = jit(lambda x, w: everything(x, w))(x, w)
        with jdeconv.patch():
            ours = jit(lambda x, w: everything(x, w))(x, w)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), ours, theirs)


NUMBERS = ("NHWC", "HWIO", "NHWC")
NOT_TAKEN = {
    "strided": lambda: lax.conv_general_dilated(X, W, (2, 1), [(1, 1), (1, 1)], (1, 2), None, NUMBERS),
    "groups of the batch": lambda: lax.conv_general_dilated(
        X, W, (1, 1), [(1, 1), (1, 1)], (2, 2), None, NUMBERS, batch_group_count=2
    ),
    "bool": lambda: lax.conv_transpose(X > 0, W > 0, (2, 2), "SAME"),
    "weakly typed": lambda: lax.conv_transpose(jnp.full(X.shape, 1.0), jnp.full(W.shape, 2.0), (2, 2), "SAME"),
    "an algorithm as precision": lambda: lax.conv_transpose(
        X, W, (2, 2), "SAME", precision=lax.DotAlgorithm(np.float32, np.float32, np.float32)
    ),
}


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_other_calls_are_what_they_were(name):
    before = program(NOT_TAKEN[name])
    with jdeconv.patch():
        assert not routed(NOT_TAKEN[name])
        assert program(NOT_TAKEN[name]) == before


ORDINARY = {
    "not dilated": lambda: lax.conv_general_dilated(X, W, (1, 1), "SAME", None, (2, 2), NUMBERS),
    "dilated by 1": lambda: lax.conv_general_dilated(X, W, (1, 1), [(1, 1), (1, 1)], (1, 1), None, NUMBERS),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_convolutions_are_routed_unless_only_transposed_ones_are_asked_for(name):
    before = program(ORDINARY[name])
    with jdeconv.patch(only="transposed"):
        assert not routed(ORDINARY[name])
        assert program(ORDINARY[name]) == before
        with jdeconv.patch():
            assert routed(ORDINARY[name])
        assert not routed(ORDINARY[name])


ERRONEOUS = {
    "strides": lambda: lax.conv_transpose(X, W, 2, "SAME"),
    "padding": lambda: lax.conv_transpose(X, W, (2, 2), "CAUSAL"),
    "channels": lambda: lax.conv_transpose(X, W, (2, 2), "SAME", transpose_kernel=True),
    "dtypes": lambda: lax.conv_transpose(X, W.astype("float16"), (2, 2), "SAME"),
    "layout": lambda: lax.conv_transpose(X, W, (2, 2), "SAME", dimension_numbers=("NHWC",)),
    "no arguments": lambda: lax.conv_transpose(),
    "an argument of jdeconv's": lambda: lax.conv_transpose(X, W, (2, 2), "SAME", method="phase"),
    "groups": lambda: lax.conv_transpose(X, W, (2, 2), "SAME", feature_group_count=2),
    "string padding": lambda: lax.conv_general_dilated(X, W, (1, 1), "SAME", (2, 2), None, NUMBERS),
    "window": lambda: lax.conv_general_dilated(X, W, (1,), [(0, 0)] * 2, (2, 2), None, NUMBERS),
    "no array": lambda: lax.conv_general_dilated([1.0], W, (1, 1), [(0, 0)] * 2, (2, 2)),
}


def error_of(f):
    try:
        f()
    except Exception as error:
        return error
    raise AssertionError("no error")


@pytest.mark.parametrize("name", ERRONEOUS)
def test_errors_are_lax_own(name):
    before = error_of(ERRONEOUS[name])
    with jdeconv.patch():
        patched = error_of(ERRONEOUS[name])
    assert (type(patched), str(patched)) == (type(before), str(before))


def test_the_functions_look_as_before():
    with jdeconv.patch():
        for name, original in ORIGINALS.items():
            now = getattr(lax, name)
            assert now is not original
            assert (now.__name__, now.__doc__, now.__wrapped__) == (name, original.__doc__, original)


@pytest.mark.parametrize("method", RUN_HERE)
def test_formulations_do_not_call_themselves(method):
    """Formulations compute by lax's own functions, also where they are traced under the patch."""
    x, w = X[:1, :4], W.swapaxes(-1, -2)
    with jdeconv.patch():
        under = jax.jit(lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2, method=method)).lower(x, w).as_text()
    plain = jax.jit(lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2, method=method)).lower(x, w).as_text()
    assert under == plain


def explicit_mesh():
    return jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)


@pytest.mark.parametrize("spec", [jax.P(), jax.P("data"), jax.P(None, "model"), jax.P(("data", "model"))], ids=str)
@pytest.mark.parametrize("f", [transposed, dilated])
def test_types_on_a_mesh_with_explicit_axes(f, spec):
    with jax.set_mesh(explicit_mesh()):
        x, w = jax.device_put(np.tile(X[:, :4], (2, 1, 1, 1)), spec), jax.device_put(W, jax.P())
        want = f(x, w)
        with jdeconv.patch():
            assert routed(f, x, w)
            got = f(x, w)
        assert jax.typeof(got) == jax.typeof(want)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_layout_that_moves_the_sharding_is_left_to_lax():
    """lax keeps a mesh axis at its position, where the result may have another dimension."""
    numbers = ("NHWC", "HWIO", "HNWC")
    with jax.set_mesh(explicit_mesh()):
        x, w = jax.device_put(np.tile(X[:, :4], (2, 1, 1, 1)), jax.P("data")), jax.device_put(W, jax.P())
        with jdeconv.patch():
            assert not routed(lambda x, w: lax.conv_transpose(x, w, (2, 2), "SAME", None, numbers), x, w)


def check_model(apply, *operands):
    """The model's program has the operator, and its values are what they were."""
    want = jit(lambda *operands: apply(*operands))(*operands)
    with jdeconv.patch():
        assert routed(apply, *operands)
        got = jit(lambda *operands: apply(*operands))(*operands)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@needs(linen, "flax")
def test_a_linen_model_unedited():
    model = linen.Sequential(
        [linen.ConvTranspose(5, (3, 4), (2, 2)), linen.relu, linen.ConvTranspose(2, (3, 3), (1, 3))]
    )
    check_model(model.apply, model.init(jax.random.key(0), X), X)


@needs(nnx, "flax")
def test_an_nnx_model_unedited():
    model = nnx.ConvTranspose(4, 5, (3, 4), (2, 2), padding="VALID", rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    check_model(lambda state, x: nnx.merge(graph, state)(x), state, X)


@needs(haiku, "haiku")
def test_a_haiku_model_unedited():
    model = haiku.without_apply_rng(
        haiku.transform(lambda x: haiku.Conv2DTranspose(3, 4, 2, output_shape=(9, 12), data_format="NHWC")(x))
    )
    check_model(model.apply, model.init(jax.random.key(0), X), X)


@needs(equinox, "equinox")
def test_an_equinox_model_unedited():
    model = equinox.nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, key=jax.random.key(0))
    weights, rest = equinox.partition(model, equinox.is_array)
    check_model(lambda weights, x: jax.vmap(equinox.combine(weights, rest))(x), weights, X.transpose(0, 3, 1, 2))
