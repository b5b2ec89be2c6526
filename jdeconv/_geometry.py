"""Which output positions each kernel tap reaches: integers in, integers out, no JAX.

Tap `t` joins input position `p` to output position `p*stride + t*dilation - low`, in each spatial dimension.

Strides, dilations and padding are `int`s. Sizes are `int`s or symbolic dimensions: anything with integer arithmetic.
Comparing symbolic dimensions may raise, because their values are not known yet.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

Size: TypeAlias = Any  # an int, or a symbolic dimension
Padding: TypeAlias = str | tuple[tuple[int, int], ...]  # 'SAME', 'VALID', or (low, high) per spatial dimension

SPATIAL_NAMES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}


@dataclasses.dataclass(frozen=True)
class Geometry:
    """One transposed convolution's spatial sizes and steps, a tuple entry per spatial dimension."""

    input: tuple[Size, ...]
    kernel: tuple[int, ...]
    output: tuple[Size, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    low: tuple[int, ...]
    """Output positions cropped at the start; negative: zeros added there."""

    @property
    def rank(self) -> int:
        """The number of spatial dimensions."""
        return len(self.input)

    @functools.cached_property
    def extent(self) -> tuple[int, ...]:
        """Positions from the kernel's first tap to its last, both included."""
        return tuple(extent(k, d) for k, d in zip(self.kernel, self.dilations, strict=True))

    @functools.cached_property
    def high(self) -> tuple[Size, ...]:
        """Output positions cropped at the end; negative: zeros added there."""
        sizes = zip(self.input, self.extent, self.output, self.strides, self.low, strict=True)
        return tuple((i - 1) * s + k - o - low for i, k, o, s, low in sizes)

    @property
    def outer(self) -> list[tuple[Size, Size]]:
        """Pads of the dilated input, over which the kernel slides to give the output; negative where it is cropped."""
        ends = zip(self.extent, self.low, self.high, strict=True)
        return [(e - 1 - low, e - 1 - high) for e, low, high in ends]

    @functools.cached_property
    def blocks(self) -> tuple[int, ...]:
        """How many blocks of `strides` positions the kernel's taps span; a block is one tap where the stride is 1."""
        sizes = zip(self.kernel, self.extent, self.strides, strict=True)
        return tuple(k if s == 1 else -(-e // s) for k, e, s in sizes)

    @functools.cached_property
    def phases(self) -> tuple[int, ...]:
        """How many of a block's `strides` positions lie within the kernel's extent."""
        return tuple(min(s, e) for s, e in zip(self.strides, self.extent, strict=True))

    @property
    def empty(self) -> bool:
        """Whether surely no tap reaches an output position, so that every result is zero."""
        dims = zip(self.input, self.kernel, self.extent, self.output, self.strides, self.low, strict=True)
        ints = lambda i, o: isinstance(i, int) and isinstance(o, int)  # noqa: E731
        return any(
            k == 0 or (ints(i, o) and (0 in (i, o) or (i - 1) * s + extent <= low or o + low <= 0))
            for i, k, extent, o, s, low in dims
        )

    @property
    def reaching(self) -> tuple[slice, ...]:
        """The taps that reach an output from an input of one position."""
        sizes = zip(self.kernel, self.output, self.low, self.dilations, strict=True)
        return tuple(slice(max(-(-low // d), 0), min((out - 1 + low) // d + 1, k)) for k, out, low, d in sizes)


class Unreachable(ValueError):
    """An output size that this input size can't produce. `_size_errors` writes the message."""

    def __init__(self, dimension: int, smallest: Size, largest: Size):
        super().__init__(dimension, smallest, largest)
        self.dimension, self.smallest, self.largest = dimension, smallest, largest


class Overcropped(ValueError):
    """More is cropped than there is: `size`, below zero, would be left. `_size_errors` writes the message."""

    def __init__(self, dimension: int, size: Size):
        super().__init__(dimension, size)
        self.dimension, self.size = dimension, size


class Undecidable(ValueError):
    """A symbolic size whose values don't decide whether it is reachable."""

    def __init__(self, dimension: int, condition: str):
        super().__init__(dimension, condition)
        self.dimension, self.condition = dimension, condition


def dimension_name(rank: int, dimension: int) -> str:
    """The name of a spatial dimension in error messages.

    >>> dimension_name(2, 0), dimension_name(4, 0)
    ('height', "dimension 0's size")
    """
    return SPATIAL_NAMES[rank][dimension] if rank in SPATIAL_NAMES else f"dimension {dimension}'s size"


def extent(kernel: int, dilation: int) -> int:
    """Positions from the first tap to the last, both included.

    >>> extent(3, 1), extent(3, 2)
    (3, 5)
    """
    return (kernel - 1) * dilation + 1


def build(
    input: Sequence[Size],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    padding: Padding,
    output: Sequence[Size] | None = None,
) -> Geometry:
    """The geometry of these sizes; `output` None is the default size. Raises `Unreachable` or `Undecidable`.

    >>> build((5,), (3,), (2,), (1,), "SAME", (9,)).low
    (1,)
    """
    sizes, lows = [], []
    for dim, (i, k, s, d) in enumerate(zip(input, kernel, strides, dilations, strict=True)):
        pads = padding if isinstance(padding, str) else padding[dim]
        smallest, largest, default = output_range(dim, i, extent(k, d), s, pads)
        size = default if output is None else output[dim]
        if not (holds(dim, ">=", size, 0) and holds(dim, "<=", smallest, size) and holds(dim, "<=", size, largest)):
            raise Unreachable(dim, at_least_zero(dim, smallest), largest)
        if not isinstance(i * s - size, int):
            raise Undecidable(dim, f"{i * s} - {size} is a constant")
        sizes.append(size)
        lows.append(_low(i, extent(k, d), s, pads, size))
    return Geometry(tuple(input), tuple(kernel), tuple(sizes), tuple(strides), tuple(dilations), tuple(lows))


def crop(
    input: Sequence[Size],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    crops: Sequence[tuple[Size, Size]],
) -> Geometry:
    """The full output, all that the taps reach, cropped by (low, high) positions at the ends of each dimension.

    A negative crop adds zeros. Raises `Overcropped` or `Undecidable`.

    >>> crop((5,), (3,), (2,), (1,), [(1, -1)]).output
    (11,)
    """
    sizes = []
    for dim, (i, k, s, d, (low, high)) in enumerate(zip(input, kernel, strides, dilations, crops, strict=True)):
        size = (i - 1) * s + extent(k, d) - low - high
        if not isinstance(i * s - size, int):
            raise Undecidable(dim, f"{i * s} - {size} is a constant")
        if not holds(dim, ">=", size, 0):
            raise Overcropped(dim, size)
        sizes.append(size)
    lows = tuple(low for low, _ in crops)
    return Geometry(tuple(input), tuple(kernel), tuple(sizes), tuple(strides), tuple(dilations), lows)


def output_range(dim: int, input: Size, extent: int, stride: int, pads: str | tuple[int, int]) -> tuple[Size, ...]:
    """(smallest, largest, default) size among the outputs whose strided convolution has `input` positions.

    The smallest may be negative: of a symbolic size it isn't always known.
    """
    if pads == "SAME":  # input == ceil(output / stride)
        smallest, largest = (input - 1) * stride + 1, input * stride
    else:  # input == floor((output + low + high - extent) / stride) + 1
        low, high = (0, 0) if isinstance(pads, str) else pads
        smallest = (input - 1) * stride + extent - low - high
        largest = smallest + stride - 1
    default = largest if pads == "SAME" else at_least_zero(dim, smallest)
    if isinstance(input, int) and input == 0:  # TensorFlow divides towards zero: smaller sizes map to 0 too
        smallest -= stride - 1
    return smallest, largest, default


def _low(input: Size, extent: int, stride: int, pads: str | tuple[int, int], output: Size) -> int:
    if pads == "VALID":
        return 0
    if not isinstance(pads, str):
        return pads[0]
    total = (input - 1) * stride + extent - output  # a plain int, since input * stride - output is
    return low_of_same(total)


def low_of_same(total: Size) -> Size:
    """SAME's share at the start of `total` positions cut off: half of them. The odd one is cut off at the end."""
    return max(total, 0) // 2


def at_least_zero(dim: int, size: Size) -> Size:
    """The size, or 0 where it is negative. Raises `Undecidable`."""
    return size if holds(dim, ">=", size, 0) else 0


def holds(dim: int, relation: str, left: Size, right: Size) -> bool:
    """Compares sizes. Every comparison is made here, because a symbolic one may be inconclusive: `Undecidable`."""
    try:
        return bool(left <= right) if relation == "<=" else bool(left >= right)
    except Exception as error:  # JAX's InconclusiveDimensionOperation, not imported here
        raise Undecidable(dim, f"{left} {relation} {right}") from error


def surely_positive(*sizes: Size) -> bool:
    """Whether all sizes are at least 1, whatever the values of the symbolic ones."""
    try:
        return all(holds(dim, ">=", size, 1) for dim, size in enumerate(sizes))
    except Undecidable:
        return False
