"""jdeconv.lax.conv_general_dilated against jax.lax's and the definition: values, derivatives, types, refusals."""

import inspect
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import RUN_HERE
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from lax_conv_calls import Call, Sums, calls
from peers import refuses
from quick import jit, with_gradients

import jdeconv

ours, theirs = jdeconv.lax.conv_general_dilated, lax.conv_general_dilated
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "bfloat16", "float32", "float64"]
COMPLEX = ["complex64", "complex128"]

IOTA = lax.ConvDimensionNumbers((0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3))
LAST = ("NHWC", "HWIO", "NHWC")
X1, W1 = (2, 3, 9), (4, 3, 3)
X2, W2 = (2, 7, 8, 3), (3, 4, 3, 2)
X3, W3 = (1, 4, 5, 3, 2), (3, 2, 3, 2, 3)
TABLE = [
    *(Call(X1, W1, (s,), "SAME") for s in (1, 2, 5)),
    *(Call(X1, W1, (s,), p) for s, p in ((2, "SAME_LOWER"), (1, "VALID"), (2, "valid"), (3, "same_lower"))),
    *(Call(X1, W1, (s,), [p], None, (d,)) for s, d in ((1, 2), (3, 1)) for p in ((0, 0), (2, 1), (4, 6), (-1, -2))),
    *(Call(X1, W1, (s,), [(2, 1)], (d,), (r,)) for s, d, r in ((1, 2, 1), (1, 3, 2), (2, 2, 1), (2, 3, 2))),
    *(Call(X2, W2, s, p, None, d, LAST) for s, d in (((1, 1), (2, 1)), ((2, 3), None)) for p in ("SAME", "VALID")),
    Call(X2, W2, (2, 1), ((-2, 1), (3, -1)), None, None, LAST),
    Call(X2, (3, 4, 1, 6), (1, 2), "SAME", None, None, LAST, 3),  # depthwise, two outputs each
    Call((2, 7, 8, 6), (3, 3, 2, 9), (2, 2), "SAME", None, (1, 2), LAST, 3),
    Call((6, 7, 8, 2), (3, 3, 2, 9), (2, 1), "SAME", None, None, LAST, 1, 3),  # groups of the batch
    Call((2, 8, 8, 3), (4, 4, 3, 5), (4, 4), "VALID", None, None, LAST),  # patches
    Call(X2, (1, 1, 3, 5), (1, 1), "VALID", None, None, LAST),
    Call(X2, (1, 1, 3, 5), (2, 3), "SAME", None, None, LAST),
    Call(X2, W2, (1, 1), ((1, 2), (0, 3)), (2, 1), (1, 2), LAST),
    Call(X2, W2, (2, 1), ((1, 2), (0, 3)), (1, 2), None, LAST),  # strided and dilated in different dimensions
    Call((2, 3, 7, 8), (4, 3, 3, 2), (2, 1), "SAME", None, None, IOTA),
    Call((7, 2, 3, 8), (4, 3, 3, 2), (2, 3), "VALID", None, (1, 2), ("HNCW", "WIHO", "WHCN")),
    Call(X3, W3, (1, 2, 1), "SAME", None, None, ("NHWDC", "HWDIO", "NHWDC")),
    Call((3, 4), (5, 4), (), "SAME"),
    Call((3, 4), (4, 5), (), (), (), (), ("NC", "IO", "CN")),
    Call((4, 6), (6, 3), (), (), None, None, None, 2),
    Call((1, 2, 2, 3, 2, 2), (2, 1, 2, 2, 2, 3), (2, 2, 1, 2), "SAME", None, None, ("NABDEC", "ABDEIO", "NABDEC")),
    Call((2, 3, 0), W1, (2,), "SAME"),
    Call((2, 3, 0), W1, (2,), ((3, 4),)),
    Call((0, 3, 9), W1, (2,), "VALID"),
    Call((2, 0, 9), (4, 0, 3), (1,), "VALID"),
    Call(X1, (0, 3, 3), (2,), "VALID"),
    Call(X1, (4, 3, 11), (2,), "VALID"),  # a kernel that fits nowhere
    Call(X1, W1, (2,), ((20, -25),)),  # nothing of the input is left
    Call(X1, W1, [2], "SAME", [1], [2], ["NCW", "OIW", "NCW"]),
    Call(X1, W1, np.array([2]), ((np.int64(1), 2),)),
]


def gradients(f):
    """The result, and both gradients of a loss that is not linear in it."""

    def loss(x, w):
        y = f(x, w)
        return jnp.sin(y).sum(), y

    return jax.grad(loss, (0, 1), has_aux=True)


def second_derivatives(f):
    """Both gradients of the squares of the first ones."""
    first = gradients(f)
    return jax.grad(lambda x, w: sum((gradient**2).sum() for gradient in first(x, w)[0]), (0, 1))


def equal_lax(call, derivatives):
    with jax.enable_x64(True):
        found, wanted = (jit(derivatives(call.of(function)))(*call.arrays()) for function in (ours, theirs))
        for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.sampled(19)
@pytest.mark.parametrize("call", TABLE, ids=repr)
def test_equals_lax(call):
    equal_lax(call, gradients)


@pytest.mark.sampled(13)
@pytest.mark.parametrize("call", TABLE[::5], ids=repr)
def test_second_derivatives_equal_lax(call):
    equal_lax(call, second_derivatives)


@given(call=calls(), method=st.sampled_from(["auto", "auto", *RUN_HERE]))
def test_random_calls_equal_the_definition(call, method):
    """Result and gradients; what lax refuses is refused in its words."""
    if not call.legal:
        error = refuses(lambda: call.of(theirs)(*call.arrays(np.float32)))
        return same_error(refuses(lambda: call.of(ours)(*call.arrays(np.float32))), error)
    with jax.enable_x64(True):
        x, w = call.arrays()
        sums, f = Sums(call), call.of(ours, method=method)
        if method != "auto" and isinstance(refused := refuses(lambda: jax.eval_shape(f, x, w)), NotImplementedError):
            assert f"method='{method}'" in str(refused)
            return
        found, kind = jit(lambda x, w: with_gradients(f, x, w))(x, w), jax.eval_shape(call.of(theirs), x, w)
        cotangent = np.cos(np.arange(kind.size)).reshape(kind.shape)
        wanted = sums.output(x, w), sums.by_x(w, cotangent), sums.by_w(x, cotangent)
        assert (found[0].shape, found[0].dtype) == (kind.shape, kind.dtype)
        for got, want in zip(found, wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10, err_msg=f"{call} {method}")


@given(call=calls().filter(lambda call: call.legal), method=st.sampled_from(["auto", "auto", *RUN_HERE]))
def test_random_calls_have_second_derivatives(call, method):
    """Of half the square sum of y in direction v: `by_x(w, y)` summed against v is `sum(y * y(v, w))`."""
    with jax.enable_x64(True):
        (x, w), (v, _), sums = call.arrays(), call.arrays(seed=1), Sums(call)
        f = call.of(ours, method=method)
        if isinstance(refuses(lambda: jax.eval_shape(f, x, w)), NotImplementedError):
            return

        def along(x, w):
            return jax.jvp(lambda x: (f(x, w) ** 2).sum() / 2, (x,), (jnp.asarray(v),))[1]

        found = jit(lambda x, w: jax.grad(along, (0, 1))(x, w))(x, w)
        y, moved = sums.output(x, w), sums.output(v, w)
        wanted = sums.by_x(w, moved), sums.by_w(x, moved) + sums.by_w(v, y)
        for got, want in zip(found, wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9, err_msg=f"{call} {method}")


# Types


def whole(shape, dtype, seed=0):
    """Small integers, so that every sum is exact."""
    return jnp.asarray(np.random.default_rng(seed).integers(0, 3, shape)).astype(dtype)


TYPED = {
    "strided": Call((2, 3, 8), (4, 3, 3), (2,), "SAME"),
    "depthwise": Call((2, 3, 8), (6, 1, 3), (1,), "SAME", None, (2,), None, 3),
    "dilated input": Call((2, 3, 4), (4, 3, 3), (1,), [(1, 2)], (2,)),
    "both strided": Call((2, 3, 4), (4, 3, 3), (2,), [(1, 2)], (3,)),
}
OWN = ["strided", "depthwise", "dilated input"]  # what the operator computes; both strided is lax's
ALL = [*INTEGERS, *FLOATS, *COMPLEX, "bool"]


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")  # of 64 bits, by lax where x64 is off
@pytest.mark.sampled(9)
@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("preferred", [None, *ALL])
def test_result_types_and_what_is_refused(preferred, x64):
    call = TYPED["strided"]
    with jax.enable_x64(x64):
        for dtype in ALL:
            operands = [jax.ShapeDtypeStruct(shape, dtype) for shape in (call.lhs, call.rhs)]
            kinds = [
                refuses(lambda f=f: jax.eval_shape(call.of(f, preferred_element_type=preferred), *operands))  # noqa: B023
                or jax.eval_shape(call.of(f, preferred_element_type=preferred), *operands)
                for f in (ours, theirs)
            ]
            if isinstance(kinds[1], Exception):
                same_error(*kinds)
            else:
                assert kinds[0] == kinds[1], (dtype, preferred)


@pytest.mark.parametrize(
    ("dtype", "preferred"),
    [("float32", "float64"), ("int8", np.int64), ("complex64", "complex128"), ("int32", float), ("int32", "float32")],
)
def test_warns_of_a_narrowed_dtype_as_lax(dtype, preferred):
    operands = [jax.ShapeDtypeStruct(shape, dtype) for shape in (X1, W1)]
    texts = []
    for f in (ours, theirs):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            jax.eval_shape(lambda x, w, f=f: f(x, w, (2,), "SAME", preferred_element_type=preferred), *operands)
        texts.append([str(warning.message) for warning in caught])
    assert texts[0] == texts[1]
    assert bool(texts[1]) == (np.dtype(preferred).itemsize > 4 and preferred is not float)


@pytest.mark.sampled(19)
@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(
    ("dtype", "preferred"),
    [
        *((dtype, None) for dtype in ALL),
        *(("int8", name) for name in ("int32", "int64", "float16", "float32")),
        *(("uint8", name) for name in ("uint32", "float64")),
        *(("bfloat16", name) for name in ("float32", "float64")),
        ("float16", "float32"),
        ("float32", "float64"),
        ("complex64", "complex128"),
    ],
)
def test_values_of_every_type_are_exact(name, dtype, preferred):
    call = TYPED[name]
    with jax.enable_x64(True):
        x, w = whole(call.lhs, dtype), whole(call.rhs, dtype, 1)
        got, want = (jit(call.of(f, preferred_element_type=preferred))(x, w) for f in (ours, theirs))
        assert (got.dtype, jax.typeof(got).weak_type) == (want.dtype, jax.typeof(want).weak_type)
        sums = Sums(call).output(*(np.asarray(v, "complex128") for v in (x, w)))
        wanted = sums.astype(bool) if dtype == "bool" else sums
        np.testing.assert_array_equal(np.asarray(got, "complex128"), wanted)


@pytest.mark.sampled(11)
@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX])
def test_gradients_have_the_types_of_their_operands(name, dtype):
    call = TYPED[name]
    with jax.enable_x64(True):
        x, w = whole(call.lhs, dtype), whole(call.rhs, dtype, 1)
        got, want = (
            jit(lambda x, w, f=f: jax.vjp(call.of(f), x, w)[1](jnp.ones_like(call.of(f)(x, w))))(x, w)
            for f in (ours, theirs)
        )
        jax.tree.map(np.testing.assert_array_equal, got, want)
        assert [v.dtype for v in got] == [v.dtype for v in want]


def test_integers_wrap_as_in_lax():
    x, w = jnp.full((1, 9, 5), 100, "int8"), jnp.full((2, 9, 3), 77, "int8")
    found, wanted = (jit(lambda x, w, f=f: f(x, w, (2,), "SAME"))(x, w) for f in (ours, theirs))
    np.testing.assert_array_equal(found, wanted)


WEAK = {"weak": lambda shape: jnp.full(shape, 2.0), "strong": lambda shape: jnp.full(shape, 2.0, "float32"),
        "bfloat16": lambda shape: jnp.full(shape, 2.0, "bfloat16"), "NumPy": lambda shape: np.full(shape, 2.0),
        "weak int": lambda shape: jnp.full(shape, 2)}  # fmt: skip


@pytest.mark.sampled(17)
@pytest.mark.parametrize("name", ["strided", "dilated input"])
@pytest.mark.parametrize(("left", "right"), [*itertools.product(WEAK, repeat=2)])
def test_weak_and_mixed_types(left, right, name):
    """As in lax, whose convolution promotes nothing."""
    call = TYPED[name]
    x, w = WEAK[left](call.lhs), WEAK[right](call.rhs)
    want = refuses(lambda: call.of(theirs)(x, w)) or call.of(theirs)(x, w)
    if isinstance(want, Exception):
        return same_error(refuses(lambda: call.of(ours)(x, w)), want)
    got = call.of(ours)(x, w)
    assert jax.typeof(got) == jax.typeof(want)
    assert jax.typeof(got).weak_type == jax.typeof(want).weak_type
    traced = jax.make_jaxpr(call.of(ours))(x, w).out_avals[0]
    assert traced.weak_type == jax.make_jaxpr(call.of(theirs))(x, w).out_avals[0].weak_type
    np.testing.assert_array_equal(got, want)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("precision", [None, "default", "highest", lax.Precision.HIGH, ("high", "default"),
                                       "BF16_BF16_F32", lax.DotAlgorithmPreset.F32_F32_F32])  # fmt: skip
def test_precision(precision):
    call = TYPED["strided"]
    got, want = (call.of(f, precision=precision)(*call.arrays(np.float32)) for f in (ours, theirs))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


# Refusals


def same_error(found, wanted, until=None):
    parts = [(type(error), str(error).partition(until)[0] if until else str(error)) for error in (found, wanted)]
    assert parts[0] == parts[1]


GOOD = dict(lhs=np.zeros((4, 6, 7, 5), np.float32), rhs=np.zeros((6, 6, 3, 2), np.float32), window_strides=(1, 1),
            padding="SAME")  # fmt: skip
BAD = [
    dict(lhs=[[1.0]]),
    dict(rhs=None),
    dict(lhs=np.zeros((4, 6, 7), np.float32)),
    dict(lhs=np.zeros((6,), np.float32), rhs=np.zeros((6,), np.float32)),
    dict(lhs=np.zeros((4, 5, 7, 5), np.float32)),
    dict(rhs=np.zeros((6, 6, 3, 2), np.float16)),
    dict(rhs=np.zeros((6, 6, 3, 2), np.int32)),
    dict(window_strides=2),
    dict(window_strides=(2,)),
    dict(window_strides=(2, 2, 2)),
    dict(window_strides=(0, 1)),
    dict(window_strides=(-1, 1)),
    dict(window_strides=(1.5, 1)),
    dict(window_strides="ab"),
    dict(padding="CAUSAL"),
    dict(padding=1),
    dict(padding=(1, 1)),
    dict(padding=[(1, 1)]),
    dict(padding=[(1, 1)] * 3),
    dict(padding=[(1, 1, 1)] * 2),
    dict(padding=[(1.5, 1), (1, 1)]),
    dict(padding=[(-9, 0), (0, 0)]),
    dict(padding=None),
    dict(lhs_dilation=(2, 2)),
    dict(lhs_dilation=2),
    dict(lhs_dilation=(1,), padding=[(0, 0)] * 2),
    dict(lhs_dilation=(0, 1), padding=[(0, 0)] * 2),
    dict(lhs_dilation=(-1, 1), padding=[(0, 0)] * 2),
    dict(rhs_dilation=2),
    dict(rhs_dilation=(2,)),
    dict(rhs_dilation=(0, 1), padding=[(0, 0)] * 2),
    dict(dimension_numbers=("NHWC", "HWIO", "NHWC")),
    dict(dimension_numbers=("NCHW", "OIHW")),
    dict(dimension_numbers=("NCHW", "OIHW", "NCHX")),
    dict(dimension_numbers=("NCHW", "OIHW", "NCW")),
    dict(dimension_numbers=("NCHH", "OIHH", "NCHH")),
    dict(dimension_numbers="NCHW"),
    dict(dimension_numbers=((0, 1, 2, 3),) * 3),
    dict(dimension_numbers=lax.ConvDimensionNumbers((0, 3, 1, 1), (3, 2, 0, 1), (0, 3, 1, 2))),
    dict(dimension_numbers=lax.ConvDimensionNumbers((0, 1, 2), (0, 1, 2), (0, 1, 2))),
    dict(feature_group_count=0),
    dict(feature_group_count=-1),
    dict(feature_group_count=2),
    dict(feature_group_count=5),
    dict(feature_group_count=4, rhs=np.zeros((6, 1, 3, 2), np.float32), lhs=np.zeros((4, 4, 7, 5), np.float32)),
    dict(feature_group_count="2"),
    dict(batch_group_count=0),
    dict(batch_group_count=3),
    dict(batch_group_count=4),
    dict(batch_group_count=2, feature_group_count=2, rhs=np.zeros((6, 3, 3, 2), np.float32)),
    dict(precision="exact"),
    dict(precision=2),
    dict(precision=("high",)),
    dict(preferred_element_type="float16"),
    dict(preferred_element_type="int32"),
    dict(preferred_element_type="text"),
    dict(out_sharding="batch"),
    dict(out_sharding=jax.P("data")),
    dict(kernel_dilation=(1, 1)),
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("change", BAD, ids=str)
def test_refused_in_lax_words(change):
    """The error's type and text are lax's; what lax takes, odd as it looks, is taken with lax's result.

    Of what lax takes while it is traced and XLA then refuses, the text has places in it.
    """
    call = {**GOOD, **change}
    want = refuses(lambda: jax.eval_shape(lambda: theirs(**call)))
    found = refuses(lambda: jax.eval_shape(lambda: ours(**call)))
    if "unexpected keyword" in str(want):
        return None if type(found) is type(want) and "kernel_dilation" in str(found) else pytest.fail(str(found))
    if want is not None:
        return same_error(found, want)
    if late := refuses(lambda: theirs(**call)):
        return same_error(found or refuses(lambda: ours(**call)), late, "at loc(")
    assert found is None
    np.testing.assert_array_equal(ours(**call), theirs(**call))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["conv", "conv_with_general_padding"])
@pytest.mark.parametrize("padding", ["SAME", ((1, 0), (2, -1)), "CAUSAL"])
def test_the_shorter_functions(name, padding):
    own, of_lax = getattr(jdeconv.lax, name), getattr(lax, name)
    assert [*inspect.signature(own).parameters] == [*inspect.signature(of_lax).parameters]
    options = dict(lhs_dilation=None, rhs_dilation=(2, 1)) if name == "conv_with_general_padding" else {}
    found, wanted = (
        refuses(lambda f=f: f(**{**GOOD, "padding": padding}, **options))
        or f(**{**GOOD, "lhs": GOOD["lhs"] + 1, "rhs": GOOD["rhs"] + 2, "padding": padding}, **options)
        for f in (own, of_lax)
    )
    if isinstance(wanted, Exception):
        return same_error(found, wanted)
    np.testing.assert_array_equal(found, wanted)


def test_missing_arguments():
    with pytest.raises(TypeError, match="missing 2 required positional arguments: 'window_strides' and 'padding'"):
        ours(GOOD["lhs"], GOOD["rhs"])


def test_an_unknown_method():
    with pytest.raises(ValueError, match="method='fast': unknown; expected 'auto', 'lax'"):
        ours(**GOOD, method="fast")


def test_the_signature_is_lax_own_and_a_method():
    own, of_lax = (inspect.signature(f).parameters for f in (ours, theirs))
    shared = [(name, parameter.default, parameter.kind) for name, parameter in of_lax.items()]
    assert [(name, parameter.default, parameter.kind) for name, parameter in own.items()][:-1] == shared
    assert (own["method"].default, own["method"].kind) == ("auto", inspect.Parameter.KEYWORD_ONLY)
