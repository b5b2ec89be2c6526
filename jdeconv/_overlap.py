"""How many taps reach each output pixel, which is what a checkerboard is made of."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from ._arguments import integers
from ._errors import blames_caller
from ._geometry import Geometry, Unreachable, build
from ._output_sizes import size_arguments
from ._size_errors import unreachable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False)
class Overlap:
    """What `overlap` returns. `str()` of it says whether it is even, and where not."""

    geometry: Geometry
    """The convolution's spatial sizes, strides, dilations and low pads."""
    counts: tuple[NDArray[np.int64], ...]
    """For each spatial dimension, how many taps reach each output position along it."""

    @property
    def map(self) -> NDArray[np.int64]:
        """How many taps reach each output pixel, of the output's spatial shape."""
        total = np.ones((), np.int64)
        for count in self.counts:
            total = np.multiply.outer(total, count)
        return total

    @property
    def inside(self) -> tuple[tuple[int, ...], ...]:
        """For each dimension, how many taps reach positions 0 to stride - 1; away from borders the counts repeat."""
        g = self.geometry
        dims = zip(g.kernel, g.strides, g.dilations, g.low, strict=True)
        return tuple(
            tuple(sum(1 for tap in range(k) if (q + low - tap * d) % s == 0) for q in range(s)) for k, s, d, low in dims
        )

    @property
    def even(self) -> bool:
        """Whether the same number of taps reaches every pixel away from borders."""
        return all(len(set(taps)) == 1 for taps in self.inside)

    def __str__(self) -> str:
        fewest, most = (math.prod(map(pick, self.inside)) for pick in (min, max))
        verdict = f"even: {most} taps a pixel" if self.even else f"uneven: {fewest} to {most} taps a pixel"
        lines = [f"output {self.geometry.output}, {verdict}, borders aside"]
        for dim, (taps, count) in enumerate(zip(self.inside, self.counts, strict=True)):
            if len(set(taps)) == 1:
                text = f"{taps[0]} everywhere"
            else:
                text = f"{', '.join(map(str, taps))} in turns from position 0; {_mend(self.geometry, dim)}"
            turns = np.resize(taps, count.shape)
            cut = np.flatnonzero(count != turns)
            lines.append(
                f"dimension {dim}: {text}" + (f"; fewer at {len(cut)} of {len(count)} positions" if len(cut) else "")
            )
        return "\n".join(lines)

    def plot(self, path: str | Path | None = None) -> "Figure":
        """A figure of the counts: the map of two dimensions, or a graph for each of one or three.

        Args:
          path: where to save it; the name's ending is the format. None (default): nowhere.

        Returns: the `matplotlib.figure.Figure`. Needs matplotlib.
        """
        from matplotlib.figure import Figure

        rank = self.geometry.rank
        if rank == 2:
            figure = Figure(figsize=(5, 4), layout="constrained")
            ax = figure.subplots()
            image = ax.imshow(self.map, interpolation="nearest", vmin=0)
            figure.colorbar(image, label="taps that reach the pixel")
        else:
            figure = Figure(figsize=(6, 2.2 * rank), layout="constrained")
            for dim, (ax, count) in enumerate(
                zip(figure.subplots(rank, squeeze=False)[:, 0], self.counts, strict=True)
            ):
                ax.bar(np.arange(len(count)), count)
                ax.set(xlabel=f"output position, dimension {dim}", ylabel="taps")
        g = self.geometry
        figure.suptitle(
            f"kernel {g.kernel}, strides {g.strides}, dilations {g.dilations}: {'' if self.even else 'un'}even"
        )
        if path is not None:
            figure.savefig(path)
        return figure


@blames_caller
def overlap(
    input_size: SupportsIndex | Sequence[SupportsIndex],
    kernel_size: SupportsIndex | Sequence[SupportsIndex],
    strides: SupportsIndex | Sequence[SupportsIndex] | None = 1,
    padding: str | Sequence[Sequence[SupportsIndex]] = "SAME",
    dilations: SupportsIndex | Sequence[SupportsIndex] | None = 1,
    output_size: SupportsIndex | Sequence[SupportsIndex] | None = None,
) -> Overlap:
    """How many taps of a transposed convolution reach each output pixel.

    Where some pixels are reached by more taps than their neighbours, outputs tend to a checkerboard. The number is even
    where the kernel's sizes are multiples of the strides.

    Args:
      input_size, kernel_size, strides, padding, dilations: as in `output_sizes`.
      output_size: the output's spatial size in pixels, an int, or one for each dimension. None (default): the default
        size.

    Returns:
      An `Overlap`: `counts` (an int64 array for each dimension), `map` (of the output's spatial shape, their product),
      `inside` (what repeats with the stride), `even`, a text, and `plot(path=None)`.

    Raises: ValueError, TypeError: as `output_sizes`; a size that strides and padding can't produce.

    Example:
      >>> print(overlap((4, 4), 3, strides=(2, 1)))
      output (8, 4), uneven: 3 to 6 taps a pixel, borders aside
      dimension 0: 2, 1 in turns from position 0; even with kernel sizes divisible by 2; fewer at 1 of 8 positions
      dimension 1: 3 everywhere; fewer at 2 of 4 positions
      >>> overlap(4, 4, strides=2).counts[0]
      array([1, 2, 2, 2, 2, 2, 2, 1])

    Semantics: the definition's own sum; the reading is Odena, Dumoulin and Olah's, "Deconvolution and checkerboard
    artifacts" (2016).
    """
    sizes, kernels, steps, dils, pads = size_arguments(input_size, kernel_size, strides, padding, dilations)
    asked = None if output_size is None else integers("output_size", output_size, lengths=(len(sizes),), least=0)
    try:
        geometry = build(sizes, kernels, steps, dils, pads, asked)
    except Unreachable as error:
        raise unreachable(error, "output_size", output_size, padding, sizes, steps, asked) from None
    return Overlap(geometry, tuple(_counts(geometry, dim) for dim in range(geometry.rank)))


def _counts(geometry: Geometry, dim: int) -> NDArray[np.int64]:
    g = geometry
    positions = np.arange(g.input[dim]) * g.strides[dim] - g.low[dim]
    reached = np.add.outer(positions, np.arange(g.kernel[dim]) * g.dilations[dim]).ravel()
    size = g.output[dim]
    return np.bincount(reached[(reached >= 0) & (reached < size)], minlength=size)


def _mend(geometry: Geometry, dim: int) -> str:
    stride, dilation = geometry.strides[dim], geometry.dilations[dim]
    if math.gcd(stride, dilation) > 1:
        return f"no kernel size is even with stride {stride} and dilation {dilation}"
    return f"even with kernel sizes divisible by {stride}"
