"""jdeconv.lax.conv_transpose against the live jax.lax.conv_transpose: values and both gradients, in float64."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import RUN_HERE
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from lax_calls import Call, calls
from quick import jit, with_gradients

import jdeconv


def check(call, method="auto"):
    def everything(x, w):
        theirs = with_gradients(lambda x, w: lax.conv_transpose(x, w, **call.arguments), x, w)
        ours = with_gradients(lambda x, w: jdeconv.lax.conv_transpose(x, w, **call.arguments, method=method), x, w)
        return ours, (theirs[0], *with_gradients(call.stuffed, x, w)[1:]) if call.overreaches else theirs

    with jax.enable_x64(True):
        for ours, theirs in zip(*jit(everything)(*call.arrays()), strict=True):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10, err_msg=repr(call))


# What jax's own lax_test.py runs, and every form of an argument.
X1, W1 = (2, 9, 3), (3, 3, 4)
X2, W2 = (2, 7, 8, 3), (3, 4, 3, 2)
X3, W3 = (1, 4, 5, 3, 2), (3, 2, 3, 2, 3)
T1, T2, T3 = (3, 4, 3), (3, 4, 2, 3), (3, 2, 3, 3, 2)  # kernels of the strided convolution
NCHW = ("NCHW", "OIHW", "NCHW")
TABLE = [
    *(
        Call((2, 9, 10, 3), (*kernel, 3, 2), strides, padding, dilation)
        for kernel, strides, padding, dilation in itertools.product(
            [(4, 4)], [(1, 1), (1, 2), (3, 3)], ["SAME", "VALID"], [None, (2, 2)]
        )
    ),
    *(Call(X1, W1, (s,), p) for s in (1, 2, 5) for p in ("SAME", "VALID")),
    *(Call(X3, W3, (1, 2, 3), p, d) for p in ("SAME", "VALID") for d in (None, (1, 2, 1))),
    *(Call(X1, T1, (2,), p, transpose_kernel=True) for p in ("SAME", "VALID", ((2, 1),))),
    *(Call(X2, T2, (2, 3), p, transpose_kernel=True) for p in ("SAME", "VALID", ((0, 1), (3, -1)))),
    Call(X3, T3, (2, 1, 2), "SAME", transpose_kernel=True),
    *(
        Call(X2, W2, (2, 2), p)
        for p in ([(1, 2), (0, 3)], ((0, 0), (0, 0)), [[6, 5], (7, 9)], np.array([[1, 2], [3, 4]]))
    ),
    *(Call(X2, W2, (2, 2), p) for p in (((-1, -2), (-3, 4)), ((8, -3), (-5, -6)), ((9, 0), (0, 9)))),
    *(
        Call(X2, W2, s, p, d, use_consistent_padding=True)
        for s, p, d in (
            ((2, 2), "SAME", None),
            ((1, 3), "VALID", (2, 1)),
            ((2, 2), ((1, 1), (0, 2)), None),
            ((3, 2), [(4, 4), (-2, -1)], (1, 2)),
            ((2, 2), ["SAME", (1, 0)], None),
            ((5, 2), ("VALID", "SAME"), None),
        )
    ),
    *(Call(X2, W2, (1, 1), p) for p in ("SAME_LOWER", "same", "valid", "same_lower")),
    Call((2, 3, 7, 8), (2, 3, 3, 4), (2, 2), "SAME", None, NCHW),
    Call((2, 3, 7, 8), (3, 2, 3, 4), (2, 2), "SAME", None, NCHW, transpose_kernel=True),
    Call((7, 2, 3, 8), (4, 2, 3, 3), (2, 3), "VALID", (1, 2), ("HNCW", "WOIH", "WHCN")),
    Call(X2, W2, (2, 1), "SAME", None, lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (3, 0, 2, 1))),
    Call(X1, W1, [2], "SAME", [2], ["NWC", "WIO", "NWC"]),
    Call(X1, W1, np.array([2]), ((np.int64(1), 2),)),
    Call((3, 4), (4, 5), (), "SAME"),
    Call((3, 4), (5, 4), (), (), transpose_kernel=True),
    Call((1, 2, 2, 3, 2, 2), (2, 1, 2, 2, 2, 3), (2, 2, 1, 2), "SAME", None, ("NABDEC", "ABDEIO", "NABDEC")),
    Call((2, 0, 3), W1, (2,), "SAME"),
    Call((2, 0, 3), W1, (2,), ((3, 4),)),
    Call((0, 9, 3), W1, (2,), "VALID"),
    Call((2, 9, 0), (3, 0, 4), (2,), "VALID"),
    Call((2, 9, 3), (3, 3, 0), (2,), "VALID"),
    Call((1, 2, 3), W1, (2,), ((-1, 0),)),
    Call(X1, W1, (2,), ((20, -25),)),  # nothing of the input is left
    Call(X1, W1, (2,), ((-25, 20),)),
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("call", TABLE, ids=repr)
def test_equals_lax(call):
    check(call)


@given(call=calls(), method=st.sampled_from(["auto", "auto", *RUN_HERE]))
def test_random_calls_equal_lax(call, method):
    if call.legal:
        return check(call, method)
    with pytest.raises(ValueError, match="expected pads that leave at least 0"):
        jdeconv.lax.conv_transpose(*call.arrays(np.float32), **call.arguments, method=method)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("rhs_spec", ["HWIO", "OHIW"])
@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("groups", [2, 3, 6])
def test_groups_are_lax_group_by_group(groups, transpose_kernel, rhs_spec):
    """12 channels to 6. The kernel's O, which the groups share out, is the input's with `transpose_kernel`."""
    channels = {"I": 6 // groups, "O": 12} if transpose_kernel else {"I": 12 // groups, "O": 6}
    sizes = {"H": 3, "W": 2, **channels}
    numbers = ("NHWC", rhs_spec, "NHWC")
    rhs = tuple(sizes[letter] for letter in rhs_spec)
    call = Call((2, 3, 4, 12), rhs, (2, 3), "SAME", None, numbers, transpose_kernel)

    def one_by_one(x, w):
        parts = zip(jnp.split(x, groups, -1), jnp.split(w, groups, rhs_spec.index("O")), strict=True)
        return jnp.concatenate([lax.conv_transpose(*part, **call.arguments) for part in parts], -1)

    def ours(x, w):
        return jdeconv.lax.conv_transpose(x, w, **call.arguments, feature_group_count=groups)

    with jax.enable_x64(True):
        both = jit(lambda x, w: [with_gradients(f, x, w) for f in (ours, one_by_one)])(*call.arrays())
        for got, want in zip(*both, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]


@pytest.mark.sampled(11)
@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS])
@pytest.mark.parametrize("preferred", [None, "int32", "uint32", "int64", *FLOATS, "bool"])
def test_dtypes(dtype, preferred):
    """Results and refusals are lax's; small integers, so that every sum is exact."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, w = (jnp.asarray(rng.integers(0, 3, shape)).astype(dtype) for shape in ((2, 4, 3), (3, 3, 2)))
        options = dict(strides=(2,), padding="SAME", preferred_element_type=preferred)
        try:
            want = jax.eval_shape(lambda x, w: lax.conv_transpose(x, w, **options), x, w)
        except TypeError:
            with pytest.raises(TypeError, match="not a type for these sums"):
                jdeconv.lax.conv_transpose(x, w, **options)
            return
        got = jdeconv.lax.conv_transpose(x, w, **options)
        assert got.dtype == want.dtype
        options["preferred_element_type"] = None
        wide = lax.conv_transpose(x.astype("complex128"), w.astype("complex128"), **options)
        np.testing.assert_array_equal(got.astype("complex128"), wide)


@pytest.mark.parametrize("method", ["auto", *RUN_HERE])
def test_integers_wrap_as_in_lax(method):
    x, w = jnp.full((1, 3, 9), 100, "int8"), jnp.full((4, 9, 2), 77, "int8")
    got = jdeconv.lax.conv_transpose(x, w, (2,), "SAME", method=method)
    np.testing.assert_array_equal(got, lax.conv_transpose(x, w, (2,), "SAME"))


PRESETS = {
    "default": ["DEFAULT", "ANY_F8_ANY_F8_F32", "ANY_F8_ANY_F8_ANY_FAST_ACCUM", "BF16_BF16_BF16", "BF16_BF16_F32"],
    "high": ["F16_F16_F16", "F16_F16_F32", "TF32_TF32_F32"],
    "highest": ["BF16_BF16_F32_X3", "BF16_BF16_F32_X6", "BF16_BF16_F32_X9", "TF32_TF32_F32_X3", "F32_F32_F32",
                "F64_F64_F64"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "wanted"), [(name, wanted) for wanted, names in PRESETS.items() for name in names])
def test_a_preset_is_the_least_precision_that_keeps_its_promise(name, wanted):
    """Given by itself, by name or as the default: which lax's convolutions ignore, and products would follow."""
    x, w = Call((2, 4, 3), (3, 3, 2), (2,), "SAME").arrays(np.float32)

    def run(precision):
        return jdeconv.lax.conv_transpose(x, w, (2,), "SAME", precision=precision, method="gemm")

    programs = [str(jax.make_jaxpr(lambda: run(p))()) for p in (lax.DotAlgorithmPreset[name], name, wanted)]  # noqa: B023
    assert programs[0] == programs[1] == programs[2]
    if name != "DEFAULT":
        with jax.default_matmul_precision(name):
            np.testing.assert_allclose(run(None), lax.conv_transpose(x, w, (2,), "SAME"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", [None, "highest", lax.Precision.HIGH, ("high", "default"), "BF16_BF16_F32"])
def test_numpy_operands_and_precision(precision):
    """NumPy's float64 is JAX's float32."""
    x, w = Call((2, 4, 3), (3, 3, 2), (2,), "SAME").arrays()
    got, want = (f(x, w, (2,), "SAME", precision=precision) for f in (jdeconv.lax.conv_transpose, lax.conv_transpose))
    assert got.dtype == want.dtype == "float32"
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((3, 2),)])
def test_symbolic_batch_and_size(padding):
    b, n = jax.export.symbolic_shape("b, n", constraints=["n >= 2"])
    x, w = jax.ShapeDtypeStruct((b, n, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 2), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x, w: jdeconv.lax.conv_transpose(x, w, (2,), padding)))(x, w)
    x, w = Call((4, 5, 3), (3, 3, 2), (2,), padding).arrays(np.float32)
    np.testing.assert_allclose(exported.call(x, w), lax.conv_transpose(x, w, (2,), padding), rtol=1e-5, atol=1e-5)


def test_a_mesh_with_explicit_axes():
    """Batch and channels sharded, where lax asks for an out_sharding that conv_transpose does not take."""
    numbers = ("NHWC", "HWIO", "CNHW")
    x, w = Call((4, 3, 5, 2), (3, 3, 2, 4), (2, 2), "SAME").arrays(np.float32)
    want = lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=numbers)
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        x, w = jax.device_put(x, jax.P("data")), jax.device_put(w, jax.P(None, None, None, "model"))
        y = jdeconv.lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=numbers)
        assert jax.typeof(y).sharding.spec == jax.P("model", "data", None, None)
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", [jax.P(None, None, None, "model"), jax.P(None, None, "model")], ids=str)
@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_groups_on_a_mesh_with_explicit_axes(transpose_kernel, spec):
    """The result's channels are split as those that hold the kernel's groups, or its outputs."""
    x, w = Call((4, 3, 5, 4), (3, 3, 2, 4), (2, 2), "SAME").arrays(np.float32)
    f = functools.partial(jdeconv.lax.conv_transpose, strides=(2, 2), padding="SAME",
                          transpose_kernel=transpose_kernel, feature_group_count=2)  # fmt: skip
    want = f(x, w)
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        y = f(jax.device_put(x, jax.P("data")), jax.device_put(w, spec))
        summed = spec != jax.P(None, None, None, "model") and not transpose_kernel  # over the input's channels
        assert jax.typeof(y).sharding.spec == jax.P("data", None, None, None if summed else "model")
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


X, W = np.zeros((2, 5, 7, 4), np.float32), np.zeros((3, 3, 4, 6), np.float32)
GOOD = dict(lhs=X, rhs=W, strides=(2, 2), padding="SAME")
NOT_EACH = (
    "not one int a spatial dimension; expected a sequence of 2. "
    "Give one for each, in the order of the kernel's dimensions."
)
NO_PADDING = "unknown; expected 'SAME', 'VALID' or 2 [low, high] pairs. Spell a string in capitals, or list the pairs."
WHICH = "dimension_numbers and transpose_kernel say which of its dimensions is which."
LAYOUTS = (
    "expected None, three strings or a jax.lax.ConvDimensionNumbers. Use N and C, I and O, and the same spatial "
    "letters in all three, as in ('NHWC', 'HWIO', 'NHWC')."
)
REFUSED = [
    (dict(strides=2), f"ValueError: strides=2: {NOT_EACH}"),
    (dict(strides=(2,)), f"ValueError: strides=(2,): {NOT_EACH}"),
    (dict(strides=(2, 0)), "ValueError: strides=(2, 0): 0 is too small; expected at least 1. Use 1 or more."),
    (dict(rhs_dilation=2), f"ValueError: rhs_dilation=2: {NOT_EACH}"),
    (dict(padding="CAUSAL"), f"ValueError: padding='CAUSAL': {NO_PADDING}"),
    (dict(padding="SAME_LOWER"), f"ValueError: padding='SAME_LOWER': {NO_PADDING}"),
    (
        dict(padding=[(1, 1)]),
        "ValueError: padding=[(1, 1)]: length 1; expected 'SAME', 'VALID' or 2 [low, high] pairs. "
        "Give one pair a dimension, [0, 0] where nothing is padded.",
    ),
    (
        dict(padding=((1.5, 1), (1, 1))),
        "TypeError: padding=((1.5, 1), (1, 1)): an entry is not an integer; expected ints known at trace time. "
        "Give Python ints; what is traced inside jit, as a static argument (static_argnames).",
    ),
    (
        dict(padding=((-5, -5), (0, 0))),
        "ValueError: padding=((-5, -5), (0, 0)): more is cut off than the dilated input's 9 in dimension 0; "
        "expected pads that leave at least 0. Cut off less.",
    ),
    (
        dict(transpose_kernel=True),
        "ValueError: rhs=float32[3, 3, 4, 6]: 6 input channels; expected those of lhs=float32[2, 5, 7, 4], 4 in all. "
        f"{WHICH}",
    ),
    (
        dict(feature_group_count=2),
        "ValueError: rhs=float32[3, 3, 4, 6]: 4 input channels in each of 2 groups; expected those of "
        f"lhs=float32[2, 5, 7, 4], 4 in all. {WHICH}",
    ),
    (
        dict(rhs=W[:, :, :1], feature_group_count=4),
        "ValueError: feature_group_count=4: 4 input and 6 output channels; expected a divisor of both. "
        "Use 1, the default, for one group.",
    ),
    (
        dict(feature_group_count=0),
        "ValueError: feature_group_count=0: 0 is too small; expected at least 1. Use 1 or more.",
    ),
    (
        dict(rhs=W[0]),
        "ValueError: rhs=float32[3, 4, 6]: 3 dimensions; expected as many as lhs=float32[2, 5, 7, 4] has, and at "
        "least 2. Both have their spatial dimensions and two more.",
    ),
    (
        dict(lhs=[[1.0]]),
        "TypeError: lhs=[[1.0]]: not an array; expected an array of numbers. Pass lhs as a JAX or NumPy array.",
    ),
    (
        dict(rhs=W[:0]),
        "ValueError: rhs=float32[0, 3, 4, 6]: a kernel size that is 0 or symbolic; expected known sizes of at least 1. "
        "Give every spatial dimension a tap; where sizes are symbolic, export a program for each.",
    ),
    (
        dict(rhs=W.astype(np.float16)),
        "TypeError: rhs=float16[3, 3, 4, 6]: dtype float16; expected float32, as lhs=float32[2, 5, 7, 4] has. "
        "Cast one of the two, for example with rhs.astype(lhs.dtype).",
    ),
    (
        dict(preferred_element_type="float16"),
        "TypeError: preferred_element_type='float16': not a type for these sums; expected a dtype of the same kind as "
        "float32 or floats for ints, and none narrower. Leave it out for the dtype of the operands.",
    ),
    (
        dict(dimension_numbers=("NHWC", "HWIO")),
        "TypeError: dimension_numbers=('NHWC', 'HWIO'): no layout of lhs and rhs (convolution dimension_numbers "
        f"list/tuple must be length 3, got 2.); {LAYOUTS}",
    ),
    (
        dict(dimension_numbers=lax.ConvDimensionNumbers((0, 3, 1, 1), (3, 2, 0, 1), (0, 3, 1, 2))),
        "TypeError: dimension_numbers=ConvDimensionNumbers(lhs_spec=(0, 3, 1, 1), rhs_spec=(3, 2, 0, 1), out_spec=(0, "
        f"3, 1, 2)): no layout of lhs and rhs (each of its specs must have the dimensions 0 to 3 once); {LAYOUTS}",
    ),
    (
        dict(lhs=X[None, None], rhs=W[None, None], strides=(2,) * 4),
        "ValueError: dimension_numbers=None: no default for the 6 dimensions of lhs; expected a layout beyond 5 "
        "dimensions. Name it, as in ('NWXYZC', 'WXYZIO', 'NWXYZC').",
    ),
    (
        dict(lhs=X > 0),
        "TypeError: lhs=bool[2, 5, 7, 4]: dtype bool; expected floats of 16 bits or more, complex numbers or integers "
        "of 8 bits or more. Cast it, or call jax.lax.conv_transpose.",
    ),
    (
        dict(method="fast"),
        "ValueError: method='fast': unknown; expected 'auto', 'lax', 'phase', 'gemm', 'taps' or 'pallas'. "
        "Use 'auto', which picks the fastest that is known.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message[:60] for _, message in REFUSED])
def test_refused(change, message):
    """What jax.lax.conv_transpose refuses is refused here too, and why."""
    arguments = {**GOOD, **change}
    with pytest.raises((TypeError, ValueError)) as refused:
        jdeconv.lax.conv_transpose(**arguments)
    assert f"{refused.type.__name__}: {refused.value}" == message
    if not {"method", "feature_group_count"} & set(change):
        with pytest.raises((TypeError, ValueError, RuntimeError, AttributeError, AssertionError)):
            lax.conv_transpose(**arguments)


def test_undecidable():
    (n,) = jax.export.symbolic_shape("n")
    x, w = jax.ShapeDtypeStruct((1, n, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 2), jnp.float32)
    message = (
        "lhs=float32[1, n, 3]: it can't be told whether 2*n - 7 >= 0; expected symbolic sizes that decide it. "
        "State it in jax.export.symbolic_shape(..., constraints=[...])."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(lambda x, w: jdeconv.lax.conv_transpose(x, w, (2,), ((-3, -3),)), x, w)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["auto", *RUN_HERE])
def test_no_spatial_dimension_is_a_matrix_product(method, dtype):
    """On each platform, in gradients too."""
    f = lambda x, w: jdeconv.lax.conv_transpose(x, w, (), (), dimension_numbers=("NC", "IO", "NC"), method=method)  # noqa: E731
    x, w = (np.arange(size).reshape(shape).astype(dtype) for size, shape in ((6, (2, 3)), (12, (3, 4))))
    both = jax.jit(lambda x, w, y: (f(x, w), *jax.vjp(f, x, w)[1](y)))
    y, *gradients = both(x, w, np.asarray(x @ w).astype(dtype))
    for found, want in ((y, x @ w), (gradients[0], y @ w.T), (gradients[1], x.T @ y)):
        np.testing.assert_allclose(np.asarray(found, "float32"), np.asarray(want, "float32"), rtol=1e-2)
    jax.export.export(both, platforms=("cpu", "cuda", "tpu"))(x, w, y)
