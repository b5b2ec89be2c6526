"""TensorFlow's argument forms, row by row: what is accepted gives the definition's numbers, what is refused says so."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import Case
from refused.tensorflow import MESSAGES, ROWS, W, X

import jdeconv

rng = np.random.default_rng(7)
x = rng.standard_normal(X.shape).astype(np.float32)
w = rng.standard_normal(W.shape).astype(np.float32)


def same(y, out=(10, 14), strides=(2, 2), padding="SAME", dilations=(1, 1), groups=1, value=x, filter=w):
    """y is the transposed convolution of this geometry."""
    case = Case(2, value.shape[1:3], filter.shape[:2], strides, dilations, padding, out, groups,
                value.shape[3] // groups, filter.shape[2])  # fmt: skip
    want = oracle.transpose_conv(case, value, filter)
    assert y.shape == want.shape
    np.testing.assert_allclose(y, want, atol=1e-5 * np.abs(want).max(initial=0))


f = jdeconv.conv2d_transpose

ACCEPTED = {
    "a full shape": lambda: same(f(x, w, (2, 10, 14, 6), 2)),
    "the smaller size": lambda: same(f(x, w, (2, 9, 13, 6), 2), (9, 13)),
    "VALID": lambda: same(f(x, w, (2, 11, 15, 6), 2, "VALID"), (11, 15), padding="VALID"),
    "VALID, larger": lambda: same(f(x, w, (2, 12, 16, 6), 2, "VALID"), (12, 16), padding="VALID"),
    "spatial sizes alone": lambda: same(f(x, w, (10, 14), 2)),
    "batch -1": lambda: same(f(x, w, [-1, 10, 14, 6], 2)),
    "an int32 array": lambda: same(f(x, w, np.array([2, 10, 14, 6], np.int32), 2)),
    "an int64 array": lambda: same(f(x, w, np.array([2, 10, 14, 6]), 2)),
    "a JAX array": lambda: same(f(x, w, jnp.array([2, 10, 14, 6]), 2)),
    "ints and scalar arrays mixed": lambda: same(f(x, w, (2, jnp.int32(10), np.int64(14), np.array(6)), 2)),
    "a shape": lambda: same(f(x, w, jax.ShapeDtypeStruct((2, 10, 14, 6), "float32").shape, 2)),
    "two groups": lambda: same(f(x, w[..., :4], (2, 10, 14, 12), 2), groups=2),
    "two groups of a narrow filter": lambda: same(f(x, w[:, :, :3], (2, 10, 14, 6), 2), groups=2, filter=w[:, :, :3]),
    "strides None": lambda: same(f(x, w, (2, 5, 7, 6)), (5, 7), (1, 1)),
    "strides of length 1": lambda: same(f(x, w, (2, 10, 14, 6), [2])),
    "strides of length 2": lambda: same(f(x, w, (2, 10, 21, 6), (2, 3)), (10, 21), (2, 3)),
    "strides of length 4": lambda: same(f(x, w, (2, 10, 21, 6), np.array([1, 2, 3, 1])), (10, 21), (2, 3)),
    "strides NumPy": lambda: same(f(x, w, (2, 10, 14, 6), np.int64(2))),
    "explicit padding": lambda: same(
        f(x, w, (2, 9, 12, 6), 2, [[0, 0], [1, 1], [2, 1], [0, 0]]), (9, 12), padding=((1, 1), (2, 1))
    ),
    "explicit padding, a tuple": lambda: same(
        f(x, w, (2, 9, 12, 6), 2, ((0, 0), (1, 1), (2, 1), (0, 0))), (9, 12), padding=((1, 1), (2, 1))
    ),
    "explicit padding beyond the kernel": lambda: same(
        f(x, w, (2, 0, 13, 6), 2, [[0, 0], [6, 5], [1, 1], [0, 0]]), (0, 13), padding=((6, 5), (1, 1))
    ),
    "data_format None": lambda: same(f(x, w, (2, 10, 14, 6), 2, data_format=None)),
    "NCHW": lambda: same(
        jnp.moveaxis(f(np.moveaxis(x, 3, 1), w, (2, 6, 10, 21), [1, 1, 2, 3], data_format="NCHW"), 1, 3),
        (10, 21), (2, 3),
    ),
    "NCHW, explicit padding and spatial sizes": lambda: same(
        jnp.moveaxis(f(np.moveaxis(x, 3, 1), w, (9, 12), 2, [[0, 0], [0, 0], [1, 1], [2, 1]], "NCHW"), 1, 3),
        (9, 12), padding=((1, 1), (2, 1)),
    ),
    "dilations, stride 1": lambda: same(f(x, w, (2, 5, 7, 6), 1, dilations=2), (5, 7), (1, 1), dilations=(2, 2)),
    "dilations, stride 2": lambda: same(f(x, w, (2, 10, 14, 6), 2, dilations=[1, 2, 3, 1]), dilations=(2, 3)),
    "dilations beyond all images": lambda: same(
        f(x, w, (2, 10, 14, 6), 2, dilations=2**31 - 1), dilations=(2**31 - 1, 2**31 - 1)
    ),
    "input and filters": lambda: same(f(input=x, filters=w, output_shape=(2, 10, 14, 6), strides=2)),
    "lists": lambda: same(f(x.tolist(), w.tolist(), (2, 10, 14, 6), 2)),
    "empty batch": lambda: chex.assert_shape(f(x[:0], w, (0, 10, 14, 6), 2), (0, 10, 14, 6)),
    "zero input channels": lambda: same(f(x[..., :0], w[..., :0], (2, 10, 14, 6), 2), value=x[..., :0],
                                        filter=w[..., :0]),
    "zero-size filter": lambda: same(f(x, w[:0], (2, 10, 14, 6), 2), filter=w[:0]),
    "empty height, SAME": lambda: same(f(x[:, :0], w, (2, 0, 14, 6), 2), (0, 14), value=x[:, :0]),
    "empty height, VALID": lambda: same(
        f(x[:, :0], w, (2, 2, 15, 6), 2, "VALID"), (2, 15), padding="VALID", value=x[:, :0]
    ),
    "stride beyond the kernel": lambda: same(
        f(x, w[:1], (2, 13, 21, 6), 3), (13, 21), (3, 3), filter=w[:1]
    ),
    "default size, SAME": lambda: same(f(x, w, None, 2)),
    "default size, VALID": lambda: same(f(x, w, None, 3, "VALID"), (15, 21), (3, 3), "VALID"),
    "default size, explicit": lambda: same(
        f(x, w, None, 2, [[0, 0], [1, 1], [2, 1], [0, 0]]), (9, 12), padding=((1, 1), (2, 1))
    ),
    "a name": lambda: same(f(x, w, (2, 10, 14, 6), 2, name="up")),
    "positional order": lambda: same(f(x, w, (2, 10, 14, 6), 2, "SAME", "NHWC", "up", None, None, 1)),
    "method": lambda: same(f(x, w, (2, 10, 14, 6), 2, method="lax")),
    "precision": lambda: same(f(x, w, (2, 10, 14, 6), 2, precision="highest")),
    "precision pair": lambda: same(f(x, w, (2, 10, 14, 6), 2, precision=("high", jax.lax.Precision.HIGHEST))),
    "N-d": lambda: same(jdeconv.conv_transpose(x, w, (2, 10, 14, 6), 2, data_format="NHWC")),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name):
    ACCEPTED[name]()


@pytest.mark.parametrize("name", ROWS)
def test_refused_with_the_whole_message(name):
    row = ROWS[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        getattr(jdeconv, row.function)(**row.call)
    assert f"{type(caught.value).__name__}: {caught.value}" == MESSAGES[name]
    arrays = {k: v for k, v in row.call.items() if isinstance(v, np.ndarray) and v.dtype == np.float32}
    others = {k: v for k, v in row.call.items() if k not in arrays}
    with pytest.raises(type(caught.value)):  # at trace time too
        jax.eval_shape(lambda arrays: getattr(jdeconv, row.function)(**arrays, **others), arrays)


def test_every_message_has_a_row():
    assert list(MESSAGES) == list(ROWS)


TRACED = (
    "traced, so unknown while the program is built; expected ints known at trace time. "
    "Make it static: Python ints or NumPy; in jit, an argument named in static_argnames."
)


def test_a_traced_output_shape_is_refused():
    with pytest.raises(TypeError) as caught:
        jax.jit(lambda size: f(x, w, size, 2))(jnp.array([2, 10, 14, 6]))
    assert str(caught.value) == f"output_shape=traced int32[4]: {TRACED}"
    with pytest.raises(TypeError) as caught:
        jax.jit(lambda size: f(x, w, (2, size, 14, 6), 2))(10)
    assert str(caught.value) == f"output_shape=(2, traced int32[], 14, 6): {TRACED}"
    same(jax.jit(f, static_argnames=("output_shape", "strides"))(x, w, output_shape=(2, 10, 14, 6), strides=2))


def test_a_traced_stride_is_refused():
    with pytest.raises(
        TypeError, match=r"^strides=traced int32\[\]: not an integer; expected ints known at trace time\. "
    ):
        jax.jit(lambda s: f(x, w, None, s))(2)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_ranks_are_one_function(rank):
    """One row of pixels as a line, a picture and a volume, channels last and first."""
    function = {1: jdeconv.conv1d_transpose, 2: jdeconv.conv2d_transpose, 3: jdeconv.conv3d_transpose}[rank]
    value = {1: x[:, 0], 2: x[:, :1], 3: x[:, None, :1]}[rank]
    filter = {1: w[0], 2: w[:1], 3: w[None, :1]}[rank]
    out = {1: (2, 14, 6), 2: (2, 1, 14, 6), 3: (2, 1, 1, 14, 6)}[rank]
    strides = {1: 2, 2: (1, 2), 3: (1, 1, 2)}[rank]
    want = f(x[:, :1], w[:1], (2, 1, 14, 6), (1, 2))
    found = [function(value, filter, out, strides), jdeconv.conv_transpose(value, filter, out, strides)]
    first = jnp.moveaxis(value, -1, 1), filter, (out[0], out[-1], *out[1:-1]), strides
    found.append(jnp.moveaxis(function(*first, data_format={1: "NCW", 2: "NCHW", 3: "NCDHW"}[rank]), 1, -1))
    for y in found:
        assert y.shape == out
        np.testing.assert_allclose(y.reshape(want.shape), want, rtol=1e-6, atol=1e-5)


def test_lists_and_weak_types():
    ones = [[[[1]]]]
    assert f(ones, ones, None, 1).dtype == jnp.int32
    with jax.enable_x64(True):
        assert f(ones, ones, None, 1).dtype == jnp.int32
    y = f(jnp.ones((1, 1, 1, 1)) * 2, w[:1, :1, :1, :1], None, 1)
    assert y.dtype == jnp.float32
    assert not jax.typeof(y).weak_type
