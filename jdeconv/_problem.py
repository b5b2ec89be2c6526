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
        """Of `strides` taps each, the last of them filled up; of one tap where the stride is 1."""
        g = self.geometry
        sizes = zip(g.kernel, g.extent, g.strides, strict=True)
        return math.prod(k if s == 1 else -(-e // s) for k, e, s in sizes)

    @property
    def filling(self) -> float:
        """Taps in all blocks over taps of the kernel: how much work zeros make."""
        g = self.geometry
        reached = math.prod(1 if s == 1 else min(e, s) for e, s in zip(g.extent, g.strides, strict=True))
        return self.blocks * reached / math.prod(g.kernel)
