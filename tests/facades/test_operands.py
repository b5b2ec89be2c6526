"""Operands as the users of each library hold them: its tensors and variables, datasets, Flax's variables."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fuzzing import of_ours
from peers import needs, peer, refuses

import jdeconv
from jdeconv._formulations import METHODS

tf, torch, keras, nnx, h5py = peer("tensorflow"), peer("torch"), peer("keras"), peer("flax.nnx"), peer("h5py")
DRAW = np.random.default_rng(0).standard_normal
X, W = DRAW((2, 4, 5, 6)).astype(np.float32), DRAW((4, 3, 3, 2)).astype(np.float32)
TAKE_ALL = {
    "torch": lambda x, w: jdeconv.torch.conv_transpose2d(x, w, stride=2),
    "onnx": lambda x, w: jdeconv.onnx.conv_transpose(x, w, strides=[2, 2]),
    "tensorflow": lambda x, w: jdeconv.conv2d_transpose(x, w, None, 2, data_format="NCHW"),
    "keras": lambda x, w: jdeconv.keras.conv_transpose(x, w, 2, data_format="channels_first"),
    "convert": lambda x, w: jdeconv.convert.kernel(w),
}


def of_lax(x, w):
    return jdeconv.lax.conv_transpose(x, w, (2, 2), "VALID", dimension_numbers=("NCHW", "IOHW", "NCHW"))


def kernel_for(name, w):
    """The kernel as each library lays it out."""
    return w.transpose(2, 3, 1, 0) if name in ("tensorflow", "keras") else w


class Holder:
    """An object that shows itself to JAX as a Flax variable does."""

    def __init__(self, value):
        self.value = value

    def __jax_array__(self):
        return jnp.asarray(self.value)


def dataset(v):
    return h5py.File(io.BytesIO(), "w").create_dataset("kernel", data=v)


def not_contiguous(v):
    return torch.from_numpy(v.transpose().copy()).permute(*range(v.ndim))[...].permute(*reversed(range(v.ndim)))


def complex_of(v):
    return (v * (1 + 2j)).astype(np.complex64)


# The library it needs, what makes one of them of a NumPy array, and the NumPy array that it is equal to.
READ = {
    "JAX": (None, jnp.asarray, np.asarray),
    "of the other byte order": (None, lambda v: v.astype(">f4"), np.asarray),
    "__jax_array__": (None, Holder, np.asarray),
    "h5py dataset": (h5py, dataset, np.asarray),
    "Flax variable": (nnx, lambda v: nnx.Param(jnp.asarray(v)), np.asarray),
    "Keras variable": (keras, lambda v: keras.Variable(v), np.asarray),
    "TensorFlow tensor": (tf, lambda v: tf.constant(v), np.asarray),
    "TensorFlow variable": (tf, lambda v: tf.Variable(v), np.asarray),
    "TensorFlow bfloat16": (tf, lambda v: tf.cast(v, tf.bfloat16), lambda v: v.astype(jnp.bfloat16)),
    "PyTorch tensor": (torch, lambda v: torch.from_numpy(v), np.asarray),
    "PyTorch parameter": (torch, lambda v: torch.nn.Parameter(torch.from_numpy(v)), np.asarray),
    "PyTorch result": (torch, lambda v: torch.from_numpy(v).requires_grad_() * 2, lambda v: v * 2),
    "PyTorch view": (torch, not_contiguous, np.asarray),
    "PyTorch inference": (torch, lambda v: torch.inference_mode()(torch.tensor)(v), np.asarray),
    "PyTorch bfloat16": (torch, lambda v: torch.from_numpy(v).bfloat16(), lambda v: v.astype(jnp.bfloat16)),
    "PyTorch bfloat16 parameter": (
        torch,
        lambda v: torch.nn.Parameter(torch.from_numpy(v).bfloat16()),
        lambda v: v.astype(jnp.bfloat16),
    ),
    "PyTorch float16": (torch, lambda v: torch.from_numpy(v).half(), lambda v: v.astype(np.float16)),
    "PyTorch complex": (torch, lambda v: torch.from_numpy(complex_of(v)), complex_of),
    "PyTorch conjugate": (torch, lambda v: torch.from_numpy(complex_of(v)).conj(), lambda v: complex_of(v).conj()),
    "PyTorch negative": (torch, lambda v: torch.from_numpy(complex_of(v)).conj().imag, lambda v: -2 * v),
    "PyTorch int32": (torch, lambda v: torch.from_numpy((9 * v).astype(np.int32)), lambda v: (9 * v).astype(np.int32)),
}
# Whose values there are none of, or not all of, or of a type that JAX has no sums of.
REFUSED = {
    "masked": (None, lambda v: np.ma.masked_less(v, 0)),
    "PyTorch sparse": (torch, lambda v: torch.from_numpy(v).to_sparse()),
    "PyTorch meta": (torch, lambda v: torch.from_numpy(v).to("meta")),
    "PyTorch 8-bit float": (torch, lambda v: torch.from_numpy(v).to(torch.float8_e4m3fn)),
    "TensorFlow sparse": (tf, lambda v: tf.sparse.from_dense(v)),
    "a description": (None, lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype)),
}


def maker(kind, table):
    if table[kind][0] is None and kind.split()[0] in ("h5py", "Flax", "Keras", "TensorFlow", "PyTorch"):
        pytest.skip("its library is not installed")
    return table[kind][1]


@pytest.mark.parametrize("facade", TAKE_ALL)
@pytest.mark.parametrize("kind", READ)
def test_read_as_the_array_that_it_is(facade, kind):
    w = kernel_for(facade, W)
    found, wanted = (TAKE_ALL[facade](f(X), f(np.ascontiguousarray(w))) for f in (maker(kind, READ), READ[kind][2]))
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("facade", [*TAKE_ALL, "lax"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_values_is_refused(facade, kind):
    make = maker(kind, REFUSED)
    error = refuses(lambda: {**TAKE_ALL, "lax": of_lax}[facade](make(X), make(kernel_for(facade, W).copy())))
    assert of_ours(error), error


@pytest.mark.parametrize("kind", ["JAX", "__jax_array__", "h5py dataset", "Flax variable"])
def test_lax_takes_arrays_of_jax_and_numpy(kind):
    make = maker(kind, READ)
    np.testing.assert_array_equal(of_lax(make(X), make(W)), of_lax(X, W))


@pytest.mark.parametrize("kind", [kind for kind in READ if kind.split()[0] in ("TensorFlow", "PyTorch")])
def test_lax_refuses_other_libraries_tensors(kind):
    make = maker(kind, READ)
    assert of_ours(refuses(lambda: of_lax(make(X), make(W))))


def test_a_flax_variable_is_traced_as_its_array():
    """The gradient by what a variable holds."""
    loss = lambda w: (jdeconv.torch.conv_transpose2d(X, Holder(w)) ** 2).sum()  # noqa: E731
    plain = lambda w: (jdeconv.torch.conv_transpose2d(X, w) ** 2).sum()  # noqa: E731
    np.testing.assert_array_equal(jax.grad(loss)(W), jax.grad(plain)(W))


@pytest.mark.parametrize("facade", [name for name in (*TAKE_ALL, "lax") if name != "convert"])
def test_a_program_of_constants_is_not_folded(facade):
    """XLA folds a convolution of constants for up to a minute, unless a barrier hides one of them."""
    x, w = jnp.asarray(X), jnp.asarray(kernel_for(facade, W))
    program = jax.jit(lambda: {**TAKE_ALL, "lax": of_lax}[facade](x, w)).lower()
    assert "optimization_barrier" in program.as_text()


# int64, which PyTorch takes and TensorFlow does not.

BIG = 2**40
RANKS = (1, 2, 3)


def whole_numbers(rank):
    rng = np.random.default_rng(rank)
    shapes = (2, 4, *(5, 3, 2)[:rank]), (4, 3, *(3, 2, 2)[:rank]), (6,)
    return [rng.integers(-BIG, BIG, shape) // 2 ** (20 * (which < 2)) for which, shape in enumerate(shapes)]


@needs(torch, "PyTorch")
@pytest.mark.parametrize("method", ["auto", *(method for method in METHODS if method != "pallas")])
@pytest.mark.parametrize("rank", RANKS)
def test_int64_where_pytorch_takes_it(rank, method):
    x, w, bias = whole_numbers(rank)
    name, options = f"conv_transpose{rank}d", dict(stride=2, padding=1, output_padding=1, groups=2)
    theirs = getattr(torch.nn.functional, name)(*map(torch.from_numpy, (x, w, bias)), **options)
    with jax.enable_x64(True):
        for given in ((x, w, bias), [*map(jnp.asarray, (x, w, bias))], [*map(torch.from_numpy, (x, w, bias))]):
            found = getattr(jdeconv.torch, name)(*given, **options, method=method)
            assert found.dtype == "int64"
            np.testing.assert_array_equal(found, theirs.numpy())
        typed = getattr(jdeconv.torch, name)(x, w, bias, **options, method=method, preferred_element_type="int64")
        np.testing.assert_array_equal(typed, theirs.numpy())


@pytest.mark.parametrize("make", [np.asarray, *([torch.from_numpy] if torch else []), *([tf.constant] if tf else [])])
@pytest.mark.parametrize("facade", [*TAKE_ALL])
def test_int64_is_never_narrowed(facade, make):
    """int64 is refused where JAX would make int32 of it, and where the function's own library does not take it."""
    if facade == "convert":
        return
    x, w = np.ones(X.shape, np.int64), np.ones(kernel_for(facade, W).shape, np.int64)
    for x64 in (False, True):
        with jax.enable_x64(x64):
            error = refuses(lambda: TAKE_ALL[facade](make(x), make(w)))
            assert of_ours(error) if not (x64 and facade == "torch") else error is None
