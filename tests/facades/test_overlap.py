"""Taps a pixel, against a count by loops and a convolution of ones."""

import numpy as np
import pytest
from cases import cases
from hypothesis import given
from hypothesis import strategies as st
from oracle import joins
from refusals import refusals

import jdeconv
from jdeconv._geometry import extent


def found_for(case):
    pads = case.padding if isinstance(case.padding, str) else list(case.padding)
    return jdeconv.overlap(case.in_sizes, case.kernel, case.strides, pads, case.dilations, case.out_sizes)


@given(case=cases(dtypes=("float32",)))
def test_counts_are_those_of_the_definition(case):
    counted = np.zeros(case.out_sizes, int)
    for _, _, position in joins(case):
        counted[position] += 1
    found = found_for(case)
    np.testing.assert_array_equal(found.map, counted)
    assert [count.shape for count in found.counts] == [(size,) for size in case.out_sizes]
    assert found.map.dtype == np.int64


@pytest.mark.parametrize("padding", ["SAME", "VALID", [(1, 0), (0, 2)]])
def test_a_convolution_of_ones_gives_the_map(padding):
    found = jdeconv.overlap((4, 5), (3, 4), (2, 3), padding)
    pads = padding if isinstance(padding, str) else [(0, 0), *padding, (0, 0)]
    ones = jdeconv.conv2d_transpose(np.ones((1, 4, 5, 1)), np.ones((3, 4, 1, 1)), None, (2, 3), pads)
    np.testing.assert_array_equal(found.map, ones[0, ..., 0])


@given(kernel=st.integers(0, 7), stride=st.integers(1, 4), dilation=st.integers(1, 3),
       padding=st.sampled_from(["SAME", "VALID"]))  # fmt: skip
def test_inside_and_even_are_what_large_inputs_show(kernel, stride, dilation, padding):
    found = jdeconv.overlap(40, kernel, stride, padding, dilation)
    border = max(extent(kernel, dilation), 1) + stride
    border += -border % stride  # of whole turns
    middle = found.counts[0][border:-border]
    np.testing.assert_array_equal(middle, np.resize(found.inside[0], middle.shape))
    assert found.even == (len(set(middle)) == 1)


TEXTS = {
    "even": (
        jdeconv.overlap(8, 4, 2),
        "output (16,), even: 2 taps a pixel, borders aside\n"
        "dimension 0: 2 everywhere; fewer at 2 of 16 positions",
    ),
    "uneven": (
        jdeconv.overlap((5, 5), (3, 2), (2, 2), output_size=(9, 10)),
        "output (9, 10), uneven: 1 to 2 taps a pixel, borders aside\n"
        "dimension 0: 1, 2 in turns from position 0; even with kernel sizes divisible by 2\n"
        "dimension 1: 1 everywhere",
    ),
    "dilation": (
        jdeconv.overlap(8, 4, 2, "VALID", 2),
        "output (21,), uneven: 0 to 4 taps a pixel, borders aside\n"
        "dimension 0: 4, 0 in turns from position 0; no kernel size is even with stride 2 and dilation 2; "
        "fewer at 6 of 21 positions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_the_text(name):
    found, text = TEXTS[name]
    assert str(found) == text


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_plot_shows_the_counts(rank, tmp_path):
    pytest.importorskip("matplotlib")
    found = jdeconv.overlap((5, 4, 3)[:rank], 3, 2)
    figure = found.plot(tmp_path / "overlap.png")
    assert (tmp_path / "overlap.png").read_bytes().startswith(b"\x89PNG")
    if rank == 2:
        np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), found.map)
    else:
        for ax, count in zip(figure.axes, found.counts, strict=True):
            assert [bar.get_height() for bar in ax.patches] == list(count)


REFUSED = {
    "not reachable": (
        lambda: jdeconv.overlap((5, 5), 3, 2, output_size=(10, 11)),
        "ValueError: output_size=(10, 11): width 11 is not reachable from input width 5 with stride 2, SAME padding; "
        "reachable: 9 or 10. Ask for 10, or pass None for the default size.",
    ),
    "nothing is": (
        lambda: jdeconv.overlap(5, 3, padding=[(9, 9)]),
        "ValueError: padding=[(9, 9)]: no width is reachable from input width 5 with stride 1; "
        "expected pads that leave a size. Pad less.",
    ),
    "not reachable in four dimensions": (
        lambda: jdeconv.overlap((5, 5, 5, 5), 3, 2, output_size=8),
        "ValueError: output_size=8: dimension 0's size 8 is not reachable from input dimension 0's size 5 with "
        "stride 2, SAME padding; reachable: 9 or 10. Ask for 10, or pass None for the default size.",
    ),
    "length": (
        lambda: jdeconv.overlap((5, 5), 3, output_size=(5, 5, 5)),
        "ValueError: output_size=(5, 5, 5): length 3; expected an int or a sequence of length 1 or 2. "
        "Give one int for all spatial dimensions, or one for each.",
    ),
    "strides": (
        lambda: jdeconv.overlap(5, 3, 0),
        "ValueError: strides=0: 0 is too small; expected at least 1. Use 1 or more.",
    ),
}


test_refusals = refusals(REFUSED)
