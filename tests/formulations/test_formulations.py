"""Every formulation, on its own and as derivatives of itself, against the definition."""

import re

import jax
import numpy as np
import oracle
import pytest
from cases import RUN_HERE, Case, cases, refuses
from hypothesis import given
from hypothesis import strategies as st

import jdeconv
from jdeconv import _settings
from jdeconv._formulations import METHODS, taps_in_turns
from jdeconv._operator import lowering
from jdeconv._plan import variant_table


@pytest.mark.parametrize("method", METHODS)
@given(case=cases())
def test_equals_the_definition(method, case):
    if reason := refuses(method, case):
        with pytest.raises(NotImplementedError, match=re.escape(reason)):
            case.run(method)
        return
    case.check(case.run(method))


@given(case=cases(dtypes=("float32", "bfloat16", "float16")))
def test_equals_the_definition_without_onednn(case):
    with _settings.onednn(False):
        case.check(case.run())


@pytest.mark.parametrize(
    ("method", "bounds"),
    [
        ("taps", {"VECTOR": 1}),
        ("taps", {"MOST_TERMS": 1, "MOST_SUMS": 1, "TERMS_IN_SUM": 6, "BLOCKS_IN_KERNEL": 3}),
        ("phase", {"EXCESS": 1, "MANY_CHANNELS": 1, "MUCH_WORK": 0}),
    ],
)
@given(case=cases(dtypes=("float32", "bfloat16")))
def test_what_larger_cases_take_equals_the_definition(method, bounds, case):
    """Depthwise from 16 channels on, many taps, and small images of many channels, which are not drawn."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bounds.items():
            module = variant_table if hasattr(variant_table, name) else taps_in_turns
            patch.setattr(module, name, value)
        if not refuses(method, case):
            case.check(case.run(method))


@pytest.mark.parametrize("method", ["lax", "gemm"])
@given(case=cases())
def test_what_is_computed_on_gpu_equals_the_definition(method, case):
    """The programs for a GPU, run here: these two differ there."""
    compute = lowering._compute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowering, "_compute", lambda platform, onednn, *a, **more: compute("gpu", False, *a, **more))
        case.check(case.run(method))


@pytest.mark.parametrize("method", RUN_HERE)
@given(case=cases(empty=True, dtypes=("float32",)))
def test_empty_sizes_give_empty_or_zero_arrays(method, case):
    if not refuses(method, case):
        case.check(case.run(method))


@pytest.mark.parametrize("method", RUN_HERE)
@given(case=cases(dtypes=("float32",), most_groups=2), value=st.sampled_from([np.inf, np.nan]))
def test_what_is_not_finite_spoils_what_its_taps_reach(method, case, value):
    """No zero that pads or fills is multiplied with it. (A kernel gradient sums over all positions.)"""
    if refuses(method, case):
        return
    x, w, y = (np.abs(array) + 1 for array in case.arrays())
    spots = [np.zeros(array.shape) for array in (x, y)]
    for array, spot in zip((x, y), spots, strict=True):
        where = tuple(size // 2 for size in array.shape)
        array[where], spot[where] = value, 1
    found = case.run(method, operands=(x, w, y))
    reached = oracle.transpose_conv(case, spots[0], w), oracle.input_grad(case, w, spots[1])
    for got, expected in zip(found, reached, strict=False):
        np.testing.assert_array_equal(~np.isfinite(got), expected != 0, str(case))


@given(case=cases(dtypes=("float64", "complex128")))
def test_the_adjoint_identity(case):
    """<A x, y> = <x, A' y>, and the same read as a map of the kernel."""
    x, w, y = case.arrays()
    out, x_bar, w_bar = case.run()
    pairs = [np.sum(out * y), np.sum(x * x_bar), np.sum(w * w_bar)]  # bilinear, so nothing is conjugated
    scale = np.sum(np.abs(out) * np.abs(y)) + np.sum(np.abs(x) * np.abs(x_bar)) + 1e-300
    terms = out.size + x.size * int(np.prod(case.kernel)) * case.group_outputs
    assert np.ptp(np.real(pairs)) + np.ptp(np.imag(pairs)) <= 16 * terms * np.finfo(np.float64).eps * scale


# Found or feared: each was wrong at some time in some version, or has a path of its own.
NAMED = {
    "pad wider than the kernel, stride 1": Case(1, (9,), (3,), (1,), (1,), ((4, 3),), (4,)),
    "pad wider than the kernel, stride 2": Case(2, (7, 5), (2, 3), (2, 2), (1, 1), ((6, 5), (1, 1)), (3, 9)),
    "stride beyond the kernel": Case(1, (5, 3), (1, 2), (3, 4), (1, 1), "SAME", (13, 12)),
    "dilation with stride": Case(1, (4, 4), (3, 2), (2, 3), (2, 3), "VALID", (11, 13)),
    "one pixel to one pixel": Case(1, (3, 1), (2, 6), (2, 4), (1, 1), "SAME", (5, 1)),
    "depthwise": Case(2, (3, 4), (4, 4), (2, 2), (1, 1), "SAME", (6, 8), groups=3),
    "depthwise, as many as a vector": Case(2, (3, 4), (4, 3), (2, 2), (1, 1), "SAME", (5, 8), groups=16),
    "the same, cut and apart": Case(1, (4, 3), (1, 2), (2, 3), (1, 1), ((1, 0), (2, 1)), (6, 5), groups=17),
    "groups, channels first": Case(2, (3, 4), (3, 3), (2, 2), (1, 1), "SAME", (5, 8), 2, 3, 2, channels_first=True),
    "kernel beyond the image": Case(1, (2, 2), (16, 16), (8, 8), (1, 1), "SAME", (16, 16), group_inputs=2),
    "empty input, VALID": Case(1, (0, 2), (3, 3), (2, 2), (1, 1), "VALID", (1, 5)),
    "pad beyond every tap": Case(1, (1, 1), (1, 1), (1, 3), (1, 1), ((0, 0), (2, 0)), (1, 1)),
    "unpadded in height, kernel beyond the width": Case(1, (5, 1), (2, 4), (2, 1), (1, 1), ((1, 1), (0, 1)), (8, 3)),
    "the same, cut": Case(1, (5, 1), (2, 4), (2, 1), (1, 1), ((3, 4), (0, 1)), (4, 3), 1, 1, 3),
    "phases that reach nothing": Case(1, (1,), (3,), (2,), (3,), ((6, 0),), (1,)),
    "one channel, strided to one pixel": Case(2, (5, 1), (5, 7), (1, 2), (1, 1), "SAME", (5, 1), 1, 3, 1),
    "one position to a channel's many taps": Case(3, (1, 1), (9, 8), (1, 1), (1, 1), "VALID", (9, 8), 1, 1, 32),
    "depthwise by many taps": Case(2, (5, 6), (13, 11), (1, 1), (1, 1), "SAME", (5, 6), 1, 1, 3),
    "depthwise by many taps, apart": Case(1, (4, 5), (12, 13), (2, 1), (1, 2), "SAME", (8, 5), 1, 2, 3),
    "one position, dilated and cut, in groups": Case(
        2, (1, 1), (4, 3), (2, 3), (2, 1), ((3, 0), (1, 0)), (5, 3), 2, 2, 3
    ),
    "empty kernel": Case(1, (2, 2), (0, 3), (1, 1), (1, 1), "SAME", (2, 2)),
}


@pytest.mark.sampled(9)
@pytest.mark.parametrize("method", RUN_HERE)
@pytest.mark.parametrize("name", NAMED)
def test_named_cases(method, name):
    if not refuses(method, NAMED[name]):
        NAMED[name].check(NAMED[name].run(method))


@pytest.mark.parametrize(("dtype", "preferred"), [("int8", "int32"), ("int16", "int32"), ("bfloat16", "float32"),
                                                  ("float16", "float32"), ("float32", "bfloat16")])  # fmt: skip
def test_preferred_element_type_is_that_of_sums_and_result(dtype, preferred):
    rng = np.random.default_rng(0)
    x = jax.numpy.asarray(rng.integers(-120, 120, (2, 4, 5, 6)), dtype)
    w = jax.numpy.asarray(rng.integers(-120, 120, (3, 3, 4, 6)), dtype)
    case = Case(2, (4, 5), (3, 3), (2, 2), (1, 1), "SAME", (8, 10), 1, 6, 4)
    y = jdeconv.conv2d_transpose(x, w, (2, 8, 10, 4), 2, preferred_element_type=preferred)
    want = oracle.transpose_conv(case, np.asarray(x, "float64"), np.asarray(w, "float64"))
    assert y.dtype == preferred
    # Integers up to 120 are exact in bfloat16 and their sums of 54 products in float32; one rounding for bfloat16.
    np.testing.assert_allclose(np.asarray(y, "float64"), want, rtol=2**-8 if preferred == "bfloat16" else 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_have_the_operands_dtype_and_the_cotangents_precision(dtype):
    x, w = jax.numpy.ones((1, 64, 64, 1), dtype), jax.numpy.ones((1, 1, 1, 1), dtype)
    f = lambda x, w: jdeconv.conv2d_transpose(x, w, None, 1, preferred_element_type="float32")  # noqa: E731
    # Rounded to the operands' dtype, the two values would cancel, or nearly.
    y = np.where(np.arange(64) % 2, np.float32(1.0001), np.float32(-1))[None, :, None, None] * np.ones((1, 64, 64, 1))
    x_bar, w_bar = jax.vjp(f, x, w)[1](y.astype("float32"))
    assert x_bar.dtype == w_bar.dtype == dtype
    np.testing.assert_allclose(float(w_bar[0, 0, 0, 0]), 2048 * 1e-4, rtol=1e-2)


@pytest.mark.parametrize("method", ["auto", *RUN_HERE])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_strict_promotion_lets_narrow_floats_be_summed_in_wide_ones(method, dtype):
    case = Case(2, (4, 5), (3, 3), (2, 2), (1, 1), "SAME", (8, 10), 1, 2, 2, dtype=dtype)
    with jax.numpy_dtype_promotion("strict"):
        case.check(case.run(method))
