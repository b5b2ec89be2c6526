"""One result to be computed, described by its sizes alone: the planner's input. No JAX here."""

import dataclasses
import functools
import math
from typing import Protocol

from .._geometry import Geometry, Size

FEW_GROUPS = 8
"""The most groups that 'lax' gives a convolution each on GPU."""
UNKNOWN = 2**15
"""Stands for a number of channels that is not known yet (exported vmap over kernels), and counts as many."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """Which of the three roles is the result, and all their sizes: input `(n, *in, g, i)`, kernel `(*k, o, g, i)`,
    output `(n, *out, g, o)`."""

    geometry: Geometry
    result: str
    batch: Size
    groups: int
    inputs: int
    """Input channels in each group."""
    outputs: int
    """Output channels in each group."""
    dtype: str

    @property
    def flops(self) -> Size:
        """Two for each input position, tap and channel pair, as in the definition (padding included)."""
        g = self.geometry
        return 2 * self.batch * math.prod((*g.input, *g.kernel, self.groups, self.inputs, self.outputs))

    @property
    def unknown_channels(self) -> bool:
        """Whether the input or output channels are `UNKNOWN`, as `choose` marks them."""
        return max(self.inputs, self.outputs) >= UNKNOWN

    @property
    def known_sizes(self) -> bool:
        """Whether the batch and all dimensions are numbers, none of them symbolic."""
        return all(isinstance(size, int) for size in (self.batch, *self.geometry.input, *self.geometry.output))

    @property
    def terms_by_taps(self) -> bool:
        """Whether fewer taps are fewer terms. In dilated blocks, terms stand for the gaps between taps as well."""
        pairs = zip(self.geometry.strides, self.geometry.dilations, strict=True)
        return self.result == "input" or all(s == 1 or d == 1 for s, d in pairs)

    @property
    def terms(self) -> int:
        """How many products, each over all positions, add up to the result; for a kernel, how many sums there are."""
        counts = {
            "output": self.block_count * self.inputs,
            "input": self.taps * self.outputs,
            "kernel": self.block_count,
        }
        return counts[self.result]

    @functools.cached_property
    def taps(self) -> int:
        """The kernel's taps, over all dimensions."""
        return math.prod(self.geometry.kernel)

    @functools.cached_property
    def block_size(self) -> int:
        """Positions in a block of outputs, over all dimensions."""
        return math.prod(self.geometry.strides)

    @functools.cached_property
    def input_positions(self) -> int | None:
        """Positions of the input, over all dimensions; None while one is symbolic."""
        sizes = self.geometry.input
        return math.prod(sizes) if all(isinstance(size, int) for size in sizes) else None

    @functools.cached_property
    def block_count(self) -> int:
        """Blocks of taps, over all dimensions; zeros may fill up the last of each."""
        return math.prod(self.geometry.blocks)

    @functools.cached_property
    def phase_count(self) -> int:
        """Phases within the kernel's extent, over all dimensions."""
        return math.prod(self.geometry.phases)

    @functools.cached_property
    def padding_factor(self) -> float:
        """Positions in all blocks over the kernel's taps: 1 if blocks are full; the rest is zeros, and extra work."""
        return self.block_count * self.phase_count / max(self.taps, 1)


class Supports(Protocol):
    """The part of a formulation that planning needs."""

    def supports(self, problem: Problem) -> str | None:
        """None if this formulation computes the problem's result, else the reason why not, which the error shows."""
