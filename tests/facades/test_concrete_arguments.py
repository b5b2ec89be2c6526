"""Numbers given as concrete JAX arrays, wherever JAX is tracing at the time: as if they were Python's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fuzzing import of_ours
from jax import export
from peers import peer, refuses
from public_functions import function_of, public

import jdeconv

X, W = np.arange(2 * 4 * 5 * 7, dtype=np.float32).reshape(2, 4, 5, 7) % 5, np.ones((4, 3, 3, 2), np.float32)
CHANNELS_LAST = np.moveaxis(X, 1, -1)
TF_W = np.ones((3, 3, 6, 4), np.float32)
OIHW = np.ones((6, 4, 3, 2), np.float32)
# Of what is symbolic, `explain` compiles nothing.
ANY_BATCH = jax.ShapeDtypeStruct((*export.symbolic_shape("b"), *CHANNELS_LAST.shape[1:]), "float32")
PAIRS = [[0, 0], [1, 1], [0, 1], [0, 0]]
# The operands, and the numbers that each function takes: alone, since some of them exclude one another.
TORCH = dict(padding=1, output_padding=1, dilation=2, groups=2)
NUMBERS = {
    "torch.conv_transpose1d": (dict(input=X[..., 0], weight=W[..., 0], stride=2), dict(TORCH, stride=3)),
    "torch.conv_transpose2d": (
        dict(input=X, weight=W, stride=2),
        dict(stride=(2, 3), padding=(1, 0), output_padding=(0, 1), dilation=(2, 1), groups=2),
    ),
    "torch.conv_transpose3d": (
        dict(input=X[..., None], weight=W[..., None], stride=2),
        dict(TORCH, stride=(1, 2, 1), padding=(1, 0, 0)),
    ),
    "onnx.conv_transpose": (
        dict(X=X, W=W),
        dict(strides=[2, 3], pads=[1, 0, 0, 1], dilations=[1, 2], group=2, kernel_shape=[3, 2], output_shape=[7, 8]),
    ),
    "onnx.conv_transpose, strided": (dict(X=X, W=W, strides=[2, 3]), dict(output_padding=[1, 2])),
    "keras.conv_transpose": (
        dict(inputs=CHANNELS_LAST, kernel=TF_W, data_format="channels_last"),
        dict(strides=(2, 3), dilation_rate=(1, 2), output_padding=(1, 0)),
    ),
    "conv1d_transpose": (
        dict(input=CHANNELS_LAST[:, 0], filters=TF_W[0], output_shape=None, strides=1),
        dict(strides=(1, 2, 1), dilations=2, padding=[[0, 0], [1, 0], [0, 0]]),
    ),
    "conv1d_transpose, strided": (
        dict(input=CHANNELS_LAST[:, 0], filters=TF_W[0], strides=2),
        dict(output_shape=(2, 13, 6)),
    ),
    "conv2d_transpose": (
        dict(value=CHANNELS_LAST, filter=TF_W),
        dict(strides=(2, 3), dilations=(1, 2, 1, 1), padding=PAIRS),
    ),
    "conv2d_transpose, strided": (
        dict(value=CHANNELS_LAST, filter=TF_W, strides=2),
        dict(output_shape=(-1, 10, 13, 12)),
    ),
    "conv3d_transpose": (
        dict(input=CHANNELS_LAST[:, None], filters=TF_W[None], output_shape=None, strides=1),
        dict(strides=(1, 2, 2), dilations=(1, 2, 1), padding=[[0, 0], *PAIRS]),
    ),
    "conv3d_transpose, strided": (
        dict(input=CHANNELS_LAST[:, None], filters=TF_W[None], strides=(1, 2, 2)),
        dict(output_shape=(1, 9, 14)),
    ),
    "conv_transpose": (
        dict(input=CHANNELS_LAST, filters=TF_W, output_shape=None, strides=1),
        dict(strides=(2, 3), dilations=(1, 2), padding=PAIRS),
    ),
    "conv_transpose, strided": (
        dict(input=CHANNELS_LAST, filters=TF_W, strides=2),
        dict(output_shape=(2, 9, 14, 6)),
    ),
    "lax.conv_general_dilated": (
        dict(lhs=X, rhs=OIHW, window_strides=(1, 1), padding=[(1, 0), (0, 1)]),
        dict(window_strides=(2, 1), padding=[(0, 1), (1, 1)], lhs_dilation=(1, 2), rhs_dilation=(1, 2)),
    ),
    "lax.conv_general_dilated, grouped": (
        dict(lhs=X, rhs=OIHW[:, :2], window_strides=(1, 1), padding="SAME"),
        dict(feature_group_count=2),
    ),
    "lax.conv": (dict(lhs=X, rhs=OIHW, padding="SAME"), dict(window_strides=(2, 1))),
    "lax.conv_with_general_padding": (
        dict(lhs=X, rhs=OIHW, window_strides=(1, 1), padding=[(1, 0), (0, 1)], lhs_dilation=None, rhs_dilation=None),
        dict(window_strides=(2, 1), padding=[(0, 1), (1, 1)], lhs_dilation=(1, 2), rhs_dilation=(1, 2)),
    ),
    "lax.conv_transpose": (
        dict(lhs=CHANNELS_LAST, rhs=np.ones((3, 3, 4, 6), np.float32), strides=(2, 2), padding="SAME"),
        dict(strides=(2, 3), padding=[(1, 2), (0, -1)], rhs_dilation=(1, 2)),
    ),
    "lax.conv_transpose, grouped": (
        dict(lhs=CHANNELS_LAST, rhs=np.ones((3, 3, 2, 6), np.float32), strides=(2, 2), padding="SAME"),
        dict(feature_group_count=2),
    ),
    "explain": (
        dict(value=ANY_BATCH, filter=jax.ShapeDtypeStruct(TF_W.shape, "float32"), strides=2),
        dict(strides=(2, 3), dilations=(1, 2), padding=PAIRS, output_shape=(9, 14)),
    ),
    "output_sizes": (
        dict(input_size=(5, 7), kernel_size=3),
        dict(input_size=(4, 6), kernel_size=(3, 2), strides=(2, 3), dilations=(1, 2), padding=[(1, 0), (0, 2)]),
    ),
    "overlap": (
        dict(input_size=(5, 7), kernel_size=3, strides=2),
        dict(
            input_size=(4, 6), kernel_size=(3, 2), strides=(2, 3), dilations=(1, 2), padding=[(1, 0), (0, 2)],
            output_size=(9, 14),
        ),
    ),
    "convert.kernel": (dict(kernel=W, target="flax"), dict(groups=2)),
    "initializers.bilinear": (dict(shape=(4, 4, 2, 2)), dict(strides=(2, 2), shape=(4, 4, 3, 3))),
    "initializers.bilinear, grouped": (dict(shape=(4, 4, 1, 2)), dict(groups=2)),
    "initializers.bicubic": (dict(shape=(8, 8, 2, 2)), dict(strides=(2, 2), shape=(8, 8, 3, 3), a=-0.75)),
    "initializers.bicubic, grouped": (dict(shape=(8, 8, 1, 2)), dict(groups=2)),
    "initializers.icnr": (
        dict(key=jax.random.key(0), shape=(4, 4, 2, 2)),
        dict(strides=(2, 2), shape=(4, 4, 3, 2), groups=2),
    ),
    "linen.ConvTranspose": (
        dict(),
        dict(
            features=6, kernel_size=(3, 2), strides=(2, 3), padding=[(1, 0), (2, 1)], kernel_dilation=(1, 2),
            feature_group_count=2, output_shape=(9, 18),
        ),
    ),
    "nnx.ConvTranspose": (
        dict(),
        dict(
            in_features=4, out_features=6, kernel_size=(3, 2), strides=(2, 3), padding=[(1, 0), (2, 1)],
            kernel_dilation=(1, 2), feature_group_count=2, output_shape=(9, 18),
        ),
    ),
    "equinox.ConvTranspose2d": (
        dict(x=np.ones((4, 5, 5), np.float32)),
        dict(
            in_channels=4, out_channels=6, kernel_size=(3, 2), stride=(2, 3), output_padding=(1, 2),
            padding=[(1, 0), (0, 1)], dilation=(2, 1), groups=2, output_shape=(11, 15),
        ),
    ),
}  # fmt: skip
# What is no number, or no array either: operands, strings, types, a flag; Keras's `padding` is a string.
OTHERS = {
    "input", "weight", "bias", "X", "W", "B", "inputs", "kernel", "value", "filter", "filters", "lhs", "rhs", "x",
    "name", "data_format", "precision", "preferred_element_type", "method", "auto_pad", "dimension_numbers",
    "transpose_kernel", "use_consistent_padding", "source", "target", "layout", "key", "dtype", "initializer",
    "shuffle", "out_sharding",
}  # fmt: skip
WITHOUT_NUMBERS = {"autotune", "convert.tree", "use_onednn", "use_tuning", "patch", "to_lax"}


def linen(features=6, kernel_size=(3, 2), strides=(2, 3), output_shape=None, **options):
    layer = jdeconv.linen.ConvTranspose(features, kernel_size, strides, **options)
    return layer.init_with_output(jax.random.key(0), np.ones((1, 5, 6, 4), np.float32), output_shape=output_shape)


def nnx(in_features=4, out_features=6, kernel_size=(3, 2), strides=(2, 3), output_shape=None, **options):
    rngs = peer("flax.nnx").Rngs(0)
    layer = jdeconv.nnx.ConvTranspose(in_features, out_features, kernel_size, strides, rngs=rngs, **options)
    return layer(np.ones((1, 5, 6, 4), np.float32), output_shape=output_shape), layer.kernel[...]


def equinox(x, output_shape=None, in_channels=4, out_channels=6, kernel_size=3, stride=(2, 3), **options):
    options |= dict(key=jax.random.key(0), dtype=np.float32)
    layer = jdeconv.equinox.ConvTranspose2d(in_channels, out_channels, kernel_size, stride, **options)
    return layer(x, output_shape=output_shape), layer.weight


WHOLE = {"linen.ConvTranspose": linen, "nnx.ConvTranspose": nnx, "equinox.ConvTranspose2d": equinox}


def result(row, argument, value):
    """What the function returns."""
    name = row.partition(",")[0]
    function_of(name)  # skipped where its framework is absent
    found = (WHOLE.get(name) or function_of(name))(**(NUMBERS[row][0] | {argument: value}))
    return (found.geometry, *found.counts) if name == "overlap" else found


ARGUMENTS = [(row, argument) for row, (_, numbers) in NUMBERS.items() for argument in numbers]


def test_no_number_is_left_out():
    """Every argument of every public function is one of these, or no number."""
    covered = {(row.partition(",")[0], argument) for row, argument in ARGUMENTS}
    public_ = {(name, argument) for name, arguments in public() for argument in arguments - OTHERS}
    public_ = {(name, argument) for name, argument in public_ if name not in WITHOUT_NUMBERS}
    strings = {("keras.conv_transpose", "padding"), ("lax.conv", "padding")}
    assert public_ - covered == {*strings, ("lax.conv_general_dilated", "batch_group_count")}  # jax.lax's own


# Numbers as concrete arrays, made while nothing is traced.


def whole(value):
    return jnp.asarray(value)


def entries(value):
    return type(value)(map(entries, value)) if isinstance(value, (list, tuple)) else jnp.asarray(value)


def rows(value):
    """The array with its innermost sequences as arrays."""
    nested = isinstance(value, (list, tuple)) and isinstance(value[0], (list, tuple))
    return type(value)(map(rows, value)) if nested else jnp.asarray(value)


def mixed(value):
    """One entry alone is an array."""
    return type(value)([*value[:-1], mixed(value[-1])]) if isinstance(value, (list, tuple)) else jnp.asarray(value)


def sharded(value):
    """The array spread over devices."""
    array = jnp.asarray(value)
    mesh = jax.make_mesh((array.shape[0] if array.ndim else 2,), ("a",))
    return jax.device_put(array, jax.sharding.NamedSharding(mesh, jax.P("a") if array.ndim else jax.P()))


FORMS = (whole, entries, rows, mixed, sharded, np.asarray)
# TensorFlow takes pairs as a list, and not as an array of two dimensions; lax takes both.
LISTS = {
    "conv1d_transpose",
    "conv2d_transpose",
    "conv3d_transpose",
    "conv_transpose",
    "explain",
    "output_sizes",
    "overlap",
}


def forms_of(row, argument):
    value = NUMBERS[row][1][argument]
    two_dimensional = np.ndim(value) == 2 and row.partition(",")[0] in LISTS
    return [form(value) for form in FORMS if not (two_dimensional and form in (whole, sharded, np.asarray))]


def program(call, mode):
    """The program as text, and what else is found while it is traced."""
    others = []

    def traced():
        leaves, _ = jax.tree.flatten(call())
        others.extend(leaf for leaf in leaves if not isinstance(leaf, jax.Array))
        return [leaf for leaf in leaves if isinstance(leaf, jax.Array)]

    return str(jax.make_jaxpr(mode(traced))(1.0)), str(others)


def jitted(call):
    return jax.jit(lambda _: call())


def differentiated(call):
    """The call is made while a gradient is taken."""
    return jax.grad(lambda t: (t * t, call()), has_aux=True)


def mapped(call):
    return lambda t: jax.vmap(lambda _: call())(jnp.stack([t, t]))


def scanned(call):
    return lambda t: jax.lax.scan(lambda carry, _: (carry, call()), t, length=2)


def rematerialised(call):
    return jax.checkpoint(lambda _: call())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(("row", "argument"), ARGUMENTS)
def test_traced_as_python_s_own(row, argument, x64):
    """The program is the same, and nothing of the arrays is left in it."""
    with jax.enable_x64(x64):
        wanted = program(lambda: result(row, argument, NUMBERS[row][1][argument]), jitted)
        for given in forms_of(row, argument):
            assert program(lambda: result(row, argument, given), jitted) == wanted, given  # noqa: B023


@pytest.mark.parametrize("mode", [differentiated, mapped, scanned, rematerialised])
@pytest.mark.parametrize("row", NUMBERS)
def test_under_other_transformations(row, mode):
    for argument, value in NUMBERS[row][1].items():
        given = entries(value)
        wanted = program(lambda: result(row, argument, value), mode)  # noqa: B023
        assert program(lambda: result(row, argument, given), mode) == wanted, argument  # noqa: B023


@pytest.mark.sampled(5)
@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("row", NUMBERS)
def test_run_as_python_s_own(row, jit):
    """The same where nothing is traced."""
    for argument, value in NUMBERS[row][1].items():
        given = entries(value)
        with jax.disable_jit(not jit):
            found, wanted = result(row, argument, given), result(row, argument, value)
        assert jax.tree.structure(found) == jax.tree.structure(wanted)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert np.array_equal(a, b) if isinstance(b, (jax.Array, np.ndarray)) else str(a) == str(b)


# Of integers; frameworks check nothing for their own arguments, and jax.lax refuses what it computes in its own words.
OF_LAX = ("lax.conv_general_dilated", "lax.conv", "lax.conv_with_general_padding")
CHECKED = [
    (row, argument)
    for row, argument in ARGUMENTS
    if row.partition(",")[0] not in OF_LAX
    and argument != "a"
    and (row not in WHOLE or argument in ("output_shape", "feature_group_count"))
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", ["bool", "float32", "bfloat16"])
@pytest.mark.parametrize(("row", "argument"), CHECKED)
def test_other_types_are_refused_as_numpy_s_are(row, argument, dtype):
    given = jnp.asarray(NUMBERS[row][1][argument], dtype)
    errors = [refuses(lambda: program(lambda: result(row, argument, v), jitted)) for v in (given, np.asarray(given))]  # noqa: B023
    assert of_ours(errors[0])
    assert str(errors[0]).split("\n")[0] == str(errors[1]).split("\n")[0]


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint8", "uint32", "int64"])
def test_any_integer_type(dtype):
    with jax.enable_x64(True):
        o, s = jnp.asarray([2, 10, 14, 6], dtype), jnp.asarray([2, 2], dtype)
        f = jax.jit(lambda x, w: jdeconv.conv2d_transpose(x, w, o, s))
        assert f(CHANNELS_LAST, TF_W).shape == (2, 10, 14, 6)


def test_no_transfer_is_needed_on_cpu():
    o, s = jnp.asarray([2, 10, 14, 6]), [jnp.asarray(2), 2]
    x, w = jnp.asarray(CHANNELS_LAST), jnp.asarray(TF_W)
    with jax.transfer_guard("disallow"):
        jax.jit(lambda x, w: jdeconv.conv2d_transpose(x, w, o, s))(x, w)


def test_what_is_traced_is_still_refused():
    def traced(x, o):
        return jdeconv.conv2d_transpose(x, TF_W, o, 2)

    with pytest.raises(TypeError, match=r"output_shape=traced int32\[4\]: traced, so unknown"):
        jax.jit(traced)(CHANNELS_LAST, jnp.asarray([2, 10, 14, 6]))
    with pytest.raises(TypeError, match=r"strides=\[2, traced int32\[\]\]: an entry is not an integer"):
        jax.jit(lambda s: jdeconv.conv2d_transpose(CHANNELS_LAST, TF_W, None, [2, s]))(2)
