"""Padding by numbers, as PyTorch, ONNX and Keras have it: the full result, cut at its ends or filled up there."""

from collections.abc import Sequence
from typing import Any

from .._arguments import shown
from .._errors import refusal
from .._geometry import Geometry, Overcut, Size, Undecidable, cut, dimension_name
from .unreachable import undecided


def cropped(
    name: str,
    value: Any,
    input: Sequence[Size],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    cuts: Sequence[tuple[Size, Size]],
) -> Geometry:
    """`_geometry.cut`; what it refuses is blamed on the argument `name`, given as `value`."""
    try:
        return cut(input, kernel, strides, dilations, cuts)
    except Overcut as error:
        problem = f"{dimension_name(len(input), error.dimension)} {error.size} would be left"
        raise refusal(ValueError, name, shown(value), problem, "expected at least 0", "Pad less.") from None
    except Undecidable as error:
        where = f"{dimension_name(len(input), error.dimension)}: "
        raise undecided(error, name, shown(value), where, ", or give pads") from None


def check_output_padding(
    value: Any, output_padding: Sequence[int], strides: Sequence[int], dilations: Sequence[int], names: str
) -> None:
    """Refuses an output padding that neither stride nor dilation exceeds; `names` is how the caller spells the two."""
    for extra, stride, dilation in zip(output_padding, strides, dilations, strict=True):
        if extra >= max(stride, dilation):
            raise refusal(
                ValueError,
                "output_padding",
                shown(value),
                f"{extra} is too large",
                f"expected less than the larger of {names}, here {stride} and {dilation}",
                f"Use {max(stride, dilation) - 1} or less, and jax.numpy.pad for more.",
            )
