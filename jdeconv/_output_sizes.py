"""`output_sizes`: which output sizes an input size can have, and the default one."""

from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex

from ._arguments import integers, spatial_padding
from ._errors import blames_caller
from ._geometry import Padding, extent, output_range


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
      kernel_size: the kernel's spatial size, likewise (an int, or a sequence of one, stands for every dimension).
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
    sizes, kernels, steps, dils, pads = size_arguments(input_size, kernel_size, strides, padding, dilations)
    found = [
        output_range(dim, i, extent(k, d), s, pads if isinstance(pads, str) else pads[dim])
        for dim, (i, k, s, d) in enumerate(zip(sizes, kernels, steps, dils, strict=True))
    ]
    defaults = tuple(default for _, _, default in found)
    ranges = tuple(range(max(smallest, 0), max(largest + 1, smallest, 0)) for smallest, largest, _ in found)
    one = not isinstance(input_size, Sequence) and not getattr(input_size, "ndim", 0)
    return OutputSizes(defaults[0], ranges[0]) if one else OutputSizes(defaults, ranges)


def size_arguments(
    input_size: Any, kernel_size: Any, strides: Any, padding: Any, dilations: Any
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], Padding]:
    """The arguments of `output_sizes`, each with one entry a spatial dimension."""
    sizes = integers("input_size", input_size, least=0)
    rank = len(sizes)
    kernels = integers("kernel_size", kernel_size, lengths=(rank,), least=0)
    steps = integers("strides", 1 if strides is None else strides, lengths=(rank,), least=1)
    dils = integers("dilations", 1 if dilations is None else dilations, lengths=(rank,), least=1)
    return sizes, kernels, steps, dils, spatial_padding(padding, rank)
