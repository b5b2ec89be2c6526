"""One result to be computed, by its sizes alone: what a plan is made of. No JAX here."""

import dataclasses
import math

from .._geometry import Geometry, Size

FEW_GROUPS = 8
"""The most groups that 'lax' gives a convolution each on GPU."""
UNKNOWN = 2**15
"""Channels, where their number is not known yet (vmap over kernels, exported): taken for many."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """Which of the three roles is the result, and the sizes of all: input `(n, *in, g, i)`, kernel `(*k, o, g, i)`,
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
        """Two for each input position, tap and pair of channels, as the definition has them (padding included)."""
        g = self.geometry
        return 2 * self.batch * math.prod((*g.input, *g.kernel, self.groups, self.inputs, self.outputs))

    @property
    def unknown_channels(self) -> bool:
        """Whether channels in or out are not known, as `choose` marks them."""
        return max(self.inputs, self.outputs) >= UNKNOWN

    @property
    def taps(self) -> int:
        """Of the kernel, in all dimensions."""
        return math.prod(self.geometry.kernel)

    @property
    def block_size(self) -> int:
        """Positions in a block of outputs, in all dimensions."""
        return math.prod(self.geometry.strides)

    @property
    def input_positions(self) -> int | None:
        """Positions of the input, in all dimensions; None while they are symbolic."""
        sizes = self.geometry.input
        return math.prod(sizes) if all(isinstance(size, int) for size in sizes) else None

    @property
    def block_count(self) -> int:
        """Of taps, in all dimensions; the last of each may be filled up."""
        return math.prod(self.geometry.blocks)

    @property
    def phase_count(self) -> int:
        """That taps reach, in all dimensions."""
        return math.prod(self.geometry.phases)

    @property
    def padding_factor(self) -> float:
        """Taps in all blocks over taps of the kernel: how much work zeros make."""
        return self.block_count * self.phase_count / max(self.taps, 1)
