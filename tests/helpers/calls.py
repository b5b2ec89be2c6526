"""Random calls of `conv2d_transpose` as anyone might write them, legal or not: undilated, ungrouped."""

import numpy as np
from cases import legal_sizes
from hypothesis import assume
from hypothesis import strategies as st

from jdeconv._operator import lowering

VALUE = np.random.default_rng(0).standard_normal((2, 5, 7, 4)).astype(np.float32)

INTS = st.integers(-1, 3)
STEPS = st.one_of(
    st.none(), INTS, st.lists(INTS, min_size=0, max_size=5), st.lists(st.integers(1, 3), min_size=2, max_size=2),
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.just(1)),
)  # fmt: skip
PAIR = st.lists(st.integers(-1, 4), min_size=1, max_size=2)
PADDINGS = st.one_of(
    st.sampled_from(["SAME", "VALID"]),
    st.sampled_from(["same", "EXPLICIT", "FULL", ""]),
    st.tuples(st.just([0, 0]), PAIR, PAIR, st.sampled_from([[0, 0], [0, 0], [0, 1]])),
    st.lists(PAIR, min_size=0, max_size=5),
)


@st.composite
def calls(draw):
    """The arguments of one call, which TensorFlow's own CPU kernels judge."""
    strides = draw(st.one_of(st.integers(1, 3), STEPS))
    padding = draw(st.one_of(st.sampled_from(["SAME", "VALID"]), PADDINGS))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    filter_channels = draw(st.tuples(st.integers(1, 4), st.sampled_from([4, 4, 4, 3])))
    spatial = draw(st.tuples(st.integers(0, 20), st.integers(0, 24)))
    if draw(st.booleans()):  # most free draws are refused; aim at what is reachable
        step = [2, 2] if strides is None or isinstance(strides, int) else [*strides, 1, 1, 1, 1][:4][-3:-1]
        strides = strides if strides is not None else 2
        step = [strides, strides] if isinstance(strides, int) else step
        pads = (
            [padding] * 2 if isinstance(padding, str) else [tuple(p) for p in [*padding, (0, 0), (0, 0), (0, 0)][1:3]]
        )
        if all(s > 0 for s in step) and all(p in ("SAME", "VALID") or len(p) == 2 for p in pads):
            sizes = [legal_sizes(n, k, s, 1, p) for n, k, s, p in zip((5, 7), kernel, step, pads, strict=True)]
            spatial = tuple(draw(st.sampled_from(options or [1])) for options in sizes)
    shape = (draw(st.sampled_from([2, 2, 2, 2, 3])), *spatial,
             draw(st.sampled_from([filter_channels[0]] * 4 + [filter_channels[0] + 1])))  # fmt: skip
    if shape[3] % filter_channels[0] == 0 and shape[3] != filter_channels[0]:
        shape = (*shape[:3], filter_channels[0])  # grouped: the CPU kernels refuse what XLA accepts
    assume(all(shape))  # with an empty output TensorFlow skips its checks
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    return {
        "value": VALUE,
        "filter": rng.standard_normal((*kernel, *filter_channels)).astype(np.float32),
        "output_shape": shape,
        "strides": strides,
        "padding": padding,
        "data_format": draw(st.sampled_from(["NHWC", "NHWC", "NHWC", None, "NWHC"])),
    }


def computed(platform, result, a, b, geometry, method, precision="highest"):
    """A result from the two other roles as a program for `platform` computes it, by XLA, of the first one's type."""
    parameters = dict(geometry=geometry, result=result, dtype=a.dtype, precision=precision, method=method)
    return lowering._compute(platform, False, a, b, **parameters)
