"""One result to be computed, by its sizes alone: what a plan is made of. No JAX here."""

import dataclasses
import math

from ._geometry import Geometry, Size


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
    def blocks(self) -> int:
        """Of `strides` taps each, as a kernel has them (the last one may be filled up)."""
        g = self.geometry
        return math.prod(-(-e // s) for e, s in zip(g.extent, g.strides, strict=True))

    @property
    def filling(self) -> float:
        """Taps in all blocks over taps of the kernel: how much work zeros make."""
        g = self.geometry
        filled = math.prod(-(-e // s) * min(e, s) for e, s in zip(g.extent, g.strides, strict=True))
        return filled / math.prod(g.kernel)
