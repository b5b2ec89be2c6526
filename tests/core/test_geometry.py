"""Sizes against sizes found by trying; what `output_sizes` takes and refuses."""

import typing

import numpy as np
import oracle
import pytest
from cases import legal_sizes
from hypothesis import given
from hypothesis import strategies as st

import jdeconv
from jdeconv._geometry import Unreachable, build

PADS = st.one_of(st.sampled_from(["SAME", "VALID"]), st.tuples(st.integers(0, 9), st.integers(0, 9)))


@given(n=st.integers(0, 9), k=st.integers(0, 7), s=st.integers(1, 5), d=st.integers(1, 3), pads=PADS)
def test_reachable_sizes_are_those_found_by_trying(n, k, s, d, pads):
    found = jdeconv.output_sizes(n, k, s, pads if isinstance(pads, str) else [pads], d)
    tried = legal_sizes(n, k, s, d, pads)
    assert list(found.reachable) == tried
    if tried:
        wanted = n * s if pads == "SAME" else (n - 1) * s + (k - 1) * d + 1 - sum(pads if pads != "VALID" else ())
        assert found.default == max(wanted, 0)


@given(n=st.integers(1, 9), k=st.integers(1, 7), s=st.integers(1, 5), d=st.integers(1, 3), pads=PADS,
       out=st.integers(0, 60))  # fmt: skip
def test_build_takes_the_reachable_sizes_only(n, k, s, d, pads, out):
    padding = pads if isinstance(pads, str) else (pads,)
    if out not in legal_sizes(n, k, s, d, pads):
        with pytest.raises(Unreachable):
            build((n,), (k,), (s,), (d,), padding, (out,))
        return
    geometry = build((n,), (k,), (s,), (d,), padding, (out,))
    assert geometry.low == (oracle.low_pad(n, out, k, s, d, pads),)
    # The strided convolution of the padded output has exactly the input's positions.
    assert (out + geometry.low[0] + geometry.high[0] - geometry.extent[0]) == (n - 1) * s


def test_geometry_is_hashable_and_knows_its_rank():
    a, b = (build((5, 7), (3, 3), (2, 2), (1, 1), "SAME", (9, 14)) for _ in range(2))
    assert a == b
    assert hash(a) == hash(b)
    assert a.rank == 2


OUTPUT_SIZES_REFUSED = {
    "input_size": (
        lambda: jdeconv.output_sizes(-1, 3),
        "ValueError: input_size=-1: -1 is too small; expected at least 0. Use 0 or more.",
    ),
    "kernel_size": (
        lambda: jdeconv.output_sizes((5, 5), (3, 3, 3)),
        "ValueError: kernel_size=(3, 3, 3): length 3; expected an int or a sequence of length 1 or 2. "
        "Give one int for all spatial dimensions, or one for each.",
    ),
    "strides": (
        lambda: jdeconv.output_sizes(5, 3, 1.5),
        "TypeError: strides=1.5: not an integer; expected ints known at trace time. "
        "Give Python ints; what is traced inside jit, as a static argument (static_argnames).",
    ),
    "padding": (
        lambda: jdeconv.output_sizes((5, 5), 3, padding="FULL"),
        "ValueError: padding='FULL': unknown; expected 'SAME', 'VALID' or 2 [low, high] pairs. "
        "Spell a string in capitals, or list the pairs.",
    ),
}


@pytest.mark.parametrize("name", OUTPUT_SIZES_REFUSED)
def test_output_sizes_refuses(name):
    call, message = OUTPUT_SIZES_REFUSED[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert f"{type(caught.value).__name__}: {caught.value}" == message


@pytest.mark.parametrize("function", [jdeconv.output_sizes, jdeconv.overlap])
def test_type_checkers_let_numpys_integers_pass(function):
    """The functions take any index; type checkers take no NumPy integer for an int."""
    assert jdeconv.output_sizes(np.int64(5), np.int32(3), np.uint8(2)) == jdeconv.output_sizes(5, 3, 2)
    for name, kind in typing.get_type_hints(function).items():
        if name.endswith(("_size", "strides", "dilations")):
            assert typing.SupportsIndex in typing.get_args(kind), name
