"""Every result of every formulation where a geometry cuts by any numbers, negative ones too, against the definition."""

import dataclasses

import jax
import jax.export
import numpy as np
import pytest
from cases import RUN_HERE, Case, cases
from hypothesis import given
from hypothesis import strategies as st

from jdeconv._geometry import Overcropped, crop
from jdeconv._operator.primitive import solve
from jdeconv._size_errors import crop_or_refuse


@st.composite
def cut_cases(draw):
    """A case whose output is cut, or filled up, by up to a window at either end; (low, high) of each dimension."""
    case = draw(cases(dtypes=("float32",), ranks=(1, 2)))
    cuts = []
    for in_size, _, kernel, stride, dilation, _ in case.per_dimension():
        full = (in_size - 1) * stride + (kernel - 1) * dilation + 1
        low = draw(st.integers(-9, full - 1))
        cuts.append((low, draw(st.integers(-9, full - max(low, 0) - 1))))
    geometry = crop(case.in_sizes, case.kernel, case.strides, case.dilations, cuts)
    # The oracle reads the low pads alone.
    return dataclasses.replace(case, padding=tuple(cuts), out_sizes=geometry.output, channels_first=False), geometry


@given(drawn=cut_cases(), method=st.sampled_from(["auto", *RUN_HERE]))
def test_every_method_takes_any_cut(drawn, method):
    case, geometry = drawn

    def f(x, w):
        x = x.reshape(case.batch, *case.in_sizes, case.groups, case.group_inputs)
        w = w.reshape(*case.kernel, case.group_outputs, case.groups, case.group_inputs)
        y = solve("output", geometry, dtype=x.dtype, method=method, input=x, kernel=w)
        return y.reshape(case.batch, *case.out_sizes, case.groups * case.group_outputs)

    case.check(case.run(function=f, operands=case.arrays()))


def test_an_output_before_or_behind_all_taps_is_zero():
    x, w = jax.numpy.ones((1, 2, 1, 1)), jax.numpy.ones((3, 1, 1, 1))
    for cuts in ((-9, 9), (9, -9)):
        for method in RUN_HERE:
            geometry = crop((2,), (3,), (1,), (1,), [cuts])
            assert geometry.empty
            np.testing.assert_array_equal(
                solve("output", geometry, dtype=x.dtype, method=method, input=x, kernel=w), np.zeros((1, 4, 1, 1))
            )


def test_more_cut_than_there_is():
    with pytest.raises(Overcropped):
        crop((2,), (3,), (1,), (1,), [(3, 2)])


def test_a_symbolic_size_that_decides_nothing():
    (n,) = jax.export.symbolic_shape("n")
    assert crop((n,), (3,), (2,), (1,), [(1, 0)]).output == (2 * n,)
    for cuts, condition in (((9, 9), "2*n - 17 >= 0"), ((0, 2 * n), "2*n - 1 is a constant")):
        with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole text follows
            crop_or_refuse("padding", cuts, (n,), (3,), (2,), (1,), [cuts])
        assert condition in str(caught.value)


def test_the_oracle_fills_up_on_both_sides():
    """The oracle's own reading of a negative low: the first tap starts behind the first output."""
    case = Case(1, (1,), (1,), (1,), (1,), ((-2, -1),), (4,))
    x, w, y = case.arrays()
    case.check([np.pad(x * w, ((0, 0), (2, 1), (0, 0))), y[:, 2:3] * w, y[:, 2:3] * x])
