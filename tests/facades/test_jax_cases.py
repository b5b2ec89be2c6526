"""The calls of `conv_general_dilated` that JAX keeps in its wheel to test its conversions, computed by jdeconv."""

import numpy as np
import pytest
from jax import lax
from lax_conv_calls import Call, Sums
from quick import jit

import jdeconv

cases = pytest.importorskip("jax._src.internal_test_util.test_harnesses", exc_type=ImportError)
NAMES = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers", "feature_group_count",
         "batch_group_count")  # fmt: skip
# Each is there with and without XLA, which is one call.
CASES = {
    case.name: {**case.params, "dtype": case.dtype}
    for case in cases.all_harnesses
    if case.group_name == "conv_general_dilated" and case.params.get("enable_xla", True)
}


def test_they_are_there():
    assert len(CASES) > 70


@pytest.mark.sampled(31)
@pytest.mark.parametrize("name", CASES)
def test_equals_lax_and_the_definition(name):
    given = CASES[name]
    call = Call(given["lhs_shape"], given["rhs_shape"], *(given[argument] for argument in NAMES))
    rng, kind = np.random.default_rng(0), np.dtype(given["dtype"])
    x, w = (rng.integers(-3, 4, shape).astype(kind) for shape in (call.lhs, call.rhs))
    options = dict(precision=given["precision"], preferred_element_type=given["preferred_element_type"])
    found, wanted = (
        jit(call.of(f, **options))(x, w) for f in (jdeconv.lax.conv_general_dilated, lax.conv_general_dilated)
    )
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    if kind.kind in "iu":  # sums wrap
        return np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.asarray(found, "complex128"), np.asarray(Sums(call).output(x, w), "complex128"))
