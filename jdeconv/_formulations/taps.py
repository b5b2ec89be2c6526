"""Elementwise sums of shifted inputs times taps. For few channels a group, as in depthwise.

XLA fuses each sum into one loop, whereas its grouped convolutions compute one output at a time.
"""

import functools

from .._plan.problem import Problem
from . import taps_at_once, taps_in_turns
from .formulation import Variants

# Each term is an operation of the program, if all are written out: so many compile in seconds.
MOST_WRITTEN_OUT, MOST_TERMS = 1024, 4096


def supports(problem: Problem) -> str | None:
    """None, unless there are too many terms."""
    most = MOST_TERMS if problem.known_sizes and problem.terms_by_taps else MOST_WRITTEN_OUT
    return None if problem.terms <= most else f"{problem.terms} terms for each element; expected at most {most}"


VARIANTS: Variants = {
    "output": {
        "windows": taps_at_once.transpose_conv,
        "padded apart": functools.partial(taps_at_once.transpose_conv, padded_apart=True),
        "in turns": taps_in_turns.transpose_conv,
    },
    "input": {"windows": taps_at_once.input_grad, "in turns": taps_in_turns.input_grad},
    "kernel": {"strips": taps_at_once.kernel_grad, "in turns": taps_in_turns.kernel_grad},
}
