"""Output sizes that a geometry refuses, in words: what can't be reached, and what can't be told of symbolic sizes."""

from collections.abc import Sequence
from typing import Any

from .._arguments import shown
from .._errors import either, refusal
from .._geometry import Size, Undecidable, Unreachable, dimension_name


def worded(
    error: Unreachable | Undecidable,
    argument: str,
    value: Any,
    padding: Any,
    sizes: Sequence[Size],
    steps: Sequence[int],
    asked: Sequence[Size] | None,
) -> Exception:
    """Of the `argument`, given as `value`, that asks for the sizes `asked` (None: the default ones)."""
    dim = error.dimension
    name = dimension_name(len(sizes), dim)
    if isinstance(error, Undecidable):
        return undecided(error, argument, shown(value), f"{name}: ", ", or ask for multiples of the input's sizes")
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


def undecided(error: Undecidable, argument: str, received: str, where: str = "", instead: str = "") -> Exception:
    """Of symbolic sizes; `where` is the dimension, `instead` what else mends it."""
    return refusal(
        ValueError,
        argument,
        received,
        f"{where}it can't be told whether {error.condition}",
        "expected symbolic sizes that decide it",
        f"State it in jax.export.symbolic_shape(..., constraints=[...]){instead}.",
    )
