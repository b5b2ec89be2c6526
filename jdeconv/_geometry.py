"""Which output positions each kernel tap reaches: integers in, integers out, no JAX.

Tap `t` joins input position `p` to output position `p*stride + t*dilation - low`, in each spatial dimension.

Sizes are `int`s or symbolic dimensions (anything with integer arithmetic whose comparisons may raise because they
depend on a value that is not known yet); strides, dilations and padding are `int`s.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex, TypeAlias

from ._arguments import Padding, integers, spatial_padding
from ._errors import blames_caller

Size: TypeAlias = Any  # an int, or a symbolic dimension

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
    """How many positions before the first output the first tap's window starts; negative: after it."""

    @property
    def rank(self) -> int:
        """The number of spatial dimensions."""
        return len(self.input)

    @property
    def extent(self) -> tuple[int, ...]:
        """Positions from a kernel's first tap to its last, both included."""
        return tuple(extent(k, d) for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def high(self) -> tuple[Size, ...]:
        """How far the last input position's taps reach past the last output; negative where they fall short of it."""
        sizes = zip(self.input, self.extent, self.output, self.strides, self.low, strict=True)
        return tuple((i - 1) * s + k - o - low for i, k, o, s, low in sizes)

    @property
    def outer(self) -> list[tuple[Size, Size]]:
        """By how much the dilated input is padded for a window as large as the kernel; negative where it is cut."""
        ends = zip(self.extent, self.low, self.high, strict=True)
        return [(e - 1 - low, e - 1 - high) for e, low, high in ends]

    @property
    def blocks(self) -> tuple[int, ...]:
        """How many blocks of `strides` positions a kernel's taps take; of one tap where the stride is 1."""
        sizes = zip(self.kernel, self.extent, self.strides, strict=True)
        return tuple(k if s == 1 else -(-e // s) for k, e, s in sizes)

    @property
    def phases(self) -> tuple[int, ...]:
        """How many of a block's `strides` positions taps can reach."""
        return tuple(min(s, e) for s, e in zip(self.strides, self.extent, strict=True))

    @property
    def empty(self) -> bool:
        """Whether it is known that no output position is reached, so that every result is zero."""
        dims = zip(self.input, self.kernel, self.extent, self.output, self.strides, self.low, strict=True)
        known = lambda i, o: isinstance(i, int) and isinstance(o, int)  # noqa: E731
        return any(
            k == 0 or (known(i, o) and (0 in (i, o) or (i - 1) * s + extent <= low or o + low <= 0))
            for i, k, extent, o, s, low in dims
        )

    @property
    def reaching(self) -> tuple[slice, ...]:
        """The taps that reach an output from an input of one position."""
        sizes = zip(self.kernel, self.output, self.low, self.dilations, strict=True)
        return tuple(slice(max(-(-low // d), 0), min((out - 1 + low) // d + 1, k)) for k, out, low, d in sizes)


class Unreachable(ValueError):
    """An output size that this input size can't produce. `_facade.unreachable` words it."""

    def __init__(self, dimension: int, smallest: Size, largest: Size):
        super().__init__(dimension, smallest, largest)
        self.dimension, self.smallest, self.largest = dimension, smallest, largest


class Overcut(ValueError):
    """More is cut off than there is: `size`, below zero, would be left. The caller words it."""

    def __init__(self, dimension: int, size: Size):
        super().__init__(dimension, size)
        self.dimension, self.size = dimension, size


class Undecidable(ValueError):
    """A symbolic size of which it can't be told whether it is reachable."""

    def __init__(self, dimension: int, condition: str):
        super().__init__(dimension, condition)
        self.dimension, self.condition = dimension, condition


def dimension_name(rank: int, dimension: int) -> str:
    """How an error message calls a spatial dimension.

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
        smallest, largest, default = _output_range(dim, i, extent(k, d), s, pads)
        size = default if output is None else output[dim]
        if not (holds(dim, ">=", size, 0) and holds(dim, "<=", smallest, size) and holds(dim, "<=", size, largest)):
            raise Unreachable(dim, at_least_zero(dim, smallest), largest)
        if not isinstance(i * s - size, int):
            raise Undecidable(dim, f"{i * s} - {size} is a constant")
        sizes.append(size)
        lows.append(_low(i, extent(k, d), s, pads, size))
    return Geometry(tuple(input), tuple(kernel), tuple(sizes), tuple(strides), tuple(dilations), tuple(lows))


def cut(
    input: Sequence[Size],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    cuts: Sequence[tuple[Size, Size]],
) -> Geometry:
    """All that the taps reach, less (low, high) positions at the ends of each dimension; more where these are negative.

    Raises `Overcut` or `Undecidable`.

    >>> cut((5,), (3,), (2,), (1,), [(1, -1)]).output
    (11,)
    """
    sizes = []
    for dim, (i, k, s, d, (low, high)) in enumerate(zip(input, kernel, strides, dilations, cuts, strict=True)):
        size = (i - 1) * s + extent(k, d) - low - high
        if not isinstance(i * s - size, int):
            raise Undecidable(dim, f"{i * s} - {size} is a constant")
        if not holds(dim, ">=", size, 0):
            raise Overcut(dim, size)
        sizes.append(size)
    lows = tuple(low for low, _ in cuts)
    return Geometry(tuple(input), tuple(kernel), tuple(sizes), tuple(strides), tuple(dilations), lows)


def _output_range(dim: int, input: Size, extent: int, stride: int, pads: str | tuple[int, int]) -> tuple[Size, ...]:
    """(smallest, largest, default) output size: those whose strided convolution has `input` positions.

    The smallest may be negative: whether it is can't always be told of symbolic sizes, and need not.
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
    return max(total, 0) // 2  # SAME: the odd position goes to the high side


def at_least_zero(dim: int, size: Size) -> Size:
    """The size, or 0 where it is negative. Raises `Undecidable`."""
    return size if holds(dim, ">=", size, 0) else 0


def holds(dim: int, relation: str, left: Size, right: Size) -> bool:
    """The one place where sizes are compared, since a symbolic comparison may be inconclusive."""
    try:
        return bool(left <= right) if relation == "<=" else bool(left >= right)
    except Exception as error:  # JAX's InconclusiveDimensionOperation, not imported here
        raise Undecidable(dim, f"{left} {relation} {right}") from error


def surely_positive(*sizes: Size) -> bool:
    """Whether all are at least 1, whatever the values of symbolic ones."""
    try:
        return all(holds(dim, ">=", size, 1) for dim, size in enumerate(sizes))
    except Undecidable:
        return False


class OutputSizes(NamedTuple):
    """`default`: the size that `output_shape=None` gives; `reachable`: every size that `output_shape` may ask for."""

    default: int | tuple[int, ...]
    reachable: range | tuple[range, ...]


@blames_caller
def output_sizes(
    input_size: SupportsIndex | Sequence[SupportsIndex],
    kernel_size: SupportsIndex | Sequence[SupportsIndex],
    strides: SupportsIndex | Sequence[SupportsIndex] | None = 1,
    padding: str | Sequence[Sequence[SupportsIndex]] = "SAME",
    dilations: SupportsIndex | Sequence[SupportsIndex] | None = 1,
) -> OutputSizes:
    """Which spatial output sizes a transposed convolution of this input size can have, and the default one.

    A strided convolution maps up to `strides` different sizes to the same one, so its transpose must be told which.

    Args:
      input_size: the input's spatial size in pixels, an int, or one int a spatial dimension. At least 0.
      kernel_size: the kernel's, likewise (an int, or a sequence of one, stands for every dimension).
      strides, dilations: in pixels, likewise. At least 1; default (and None) 1.
      padding: `'SAME'` (default), `'VALID'`, or a `(low, high)` pair for each spatial dimension, at least 0.

    Returns:
      `OutputSizes(default, reachable)`: an int and a `range` for an int `input_size`, else a tuple of each.
      `default` is `input*stride` for SAME, `(input-1)*stride + (kernel-1)*dilation + 1` for VALID, and the smallest
      reachable size for explicit padding; a range is empty where the padding leaves nothing.

    Raises:
      ValueError: a size, stride, dilation or pad out of range, an unknown padding, or sequences of unequal length.
      TypeError: something that is not an integer.

    Example:
      >>> output_sizes(5, 3, strides=2)
      OutputSizes(default=10, reachable=range(9, 11))
      >>> output_sizes((5, 7), 3, strides=(2, 3), padding="VALID")
      OutputSizes(default=(11, 21), reachable=(range(11, 13), range(21, 24)))

    Semantics: TensorFlow's `conv2d_transpose`, whose `output_shape` may be any size that the strided convolution
    maps back to `input_size`.
    """
    sizes, kernels, steps, dils, pads = spatial_sizes(input_size, kernel_size, strides, padding, dilations)
    found = [
        _output_range(dim, i, extent(k, d), s, pads if isinstance(pads, str) else pads[dim])
        for dim, (i, k, s, d) in enumerate(zip(sizes, kernels, steps, dils, strict=True))
    ]
    defaults = tuple(default for _, _, default in found)
    ranges = tuple(range(max(smallest, 0), max(largest + 1, smallest, 0)) for smallest, largest, _ in found)
    one = not isinstance(input_size, Sequence) and not getattr(input_size, "ndim", 0)
    return OutputSizes(defaults[0], ranges[0]) if one else OutputSizes(defaults, ranges)


def spatial_sizes(
    input_size: Any, kernel_size: Any, strides: Any, padding: Any, dilations: Any
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], Padding]:
    """The arguments of `output_sizes`, an entry a spatial dimension."""
    sizes = integers("input_size", input_size, least=0)
    rank = len(sizes)
    kernels = integers("kernel_size", kernel_size, lengths=(rank,), least=0)
    steps = integers("strides", 1 if strides is None else strides, lengths=(rank,), least=1)
    dils = integers("dilations", 1 if dilations is None else dilations, lengths=(rank,), least=1)
    return sizes, kernels, steps, dils, spatial_padding(padding, rank)
