"""The texts of errors about sizes: not reachable, cropped to nothing, or symbolic and not decided."""

from collections.abc import Sequence
from typing import Any

from ._arguments import shown
from ._errors import either, refusal
from ._geometry import Geometry, Overcropped, Size, Undecidable, Unreachable, crop, dimension_name


def unreachable(
    error: Unreachable | Undecidable,
    argument: str,
    value: Any,
    padding: Any,
    sizes: Sequence[Size],
    steps: Sequence[int],
    asked: Sequence[Size] | None,
) -> Exception:
    """The message for an `argument`, given as `value`, that asks for the sizes `asked` (None: the default ones)."""
    dim = error.dimension
    name = dimension_name(len(sizes), dim)
    if isinstance(error, Undecidable):
        return undecidable(error, argument, shown(value), f"{name}: ", ", or ask for multiples of the input's sizes")
    smallest, largest = error.smallest, error.largest
    source = f"from input {name} {sizes[dim]} with stride {steps[dim]}"
    if isinstance(largest, int) and largest < smallest:
        problem = f"no {name} is reachable {source}"
        return refusal(ValueError, "padding", shown(padding), problem, "expected pads that leave a size", "Pad less.")
    pads = f"{padding} padding" if isinstance(padding, str) else f"padding={shown(padding)}"
    few = either(sorted({smallest, largest})) if largest - smallest in (0, 1) else f"{smallest} to {largest}"
    wanted = f"{name} {asked[dim]} is not reachable" if asked is not None else f"no {name} is reachable"
    return refusal(
        ValueError,
        argument,
        shown(value),
        f"{wanted} {source}, {pads}",
        f"reachable: {few}",
        f"Ask for {largest}, or pass None for the default size.",
    )


def undecidable(error: Undecidable, argument: str, received: str, where: str = "", instead: str = "") -> Exception:
    """The message for symbolic sizes; `where` names the dimension, `instead` adds another mend."""
    return refusal(
        ValueError,
        argument,
        received,
        f"{where}it can't be told whether {error.condition}",
        "expected symbolic sizes that decide it",
        f"State it in jax.export.symbolic_shape(..., constraints=[...]){instead}.",
    )


def crop_or_refuse(
    name: str,
    value: Any,
    input: Sequence[Size],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    crops: Sequence[tuple[Size, Size]],
) -> Geometry:
    """`crop`, as PyTorch, ONNX and Keras count padding; errors blame the argument `name`, given as `value`."""
    try:
        return crop(input, kernel, strides, dilations, crops)
    except Overcropped as error:
        problem = f"{dimension_name(len(input), error.dimension)} {error.size} would be left"
        raise refusal(ValueError, name, shown(value), problem, "expected at least 0", "Pad less.") from None
    except Undecidable as error:
        where = f"{dimension_name(len(input), error.dimension)}: "
        raise undecidable(error, name, shown(value), where, ", or give pads") from None
