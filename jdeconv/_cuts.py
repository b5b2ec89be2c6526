"""Padding by numbers, as PyTorch, ONNX and Keras have it: the full result, cut at its ends or filled up there."""

from collections.abc import Sequence
from typing import Any

from ._arguments import shown
from ._errors import refusal
from ._geometry import Geometry, Overcut, Size, Undecidable, cut
from ._output_shape import SPATIAL_NAMES


def geometry(
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
    except (Overcut, Undecidable) as error:
        dimension = SPATIAL_NAMES[len(input)][error.dimension]
        if isinstance(error, Overcut):
            problem, expected, mend = f"{dimension} {error.size} would be left", "expected at least 0", "Pad less."
        else:
            problem = f"{dimension}: it can't be told whether {error.condition}"
            expected = "expected symbolic sizes that decide it"
            mend = "State it in jax.export.symbolic_shape(..., constraints=[...]), or give pads."
        raise refusal(ValueError, name, shown(value), problem, expected, mend) from None


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
