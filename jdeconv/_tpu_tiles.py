"""How the TPU's kernel cuts a transposed convolution into steps that fit its memory. Integers; no JAX.

Blocks are aligned to the output: position q = stride*b + r is phase r of block b. Tap t reaches it from input position
b + shift, where t = first + stride*m, first = (r + low) mod stride and shift = (r + low) div stride - m.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

from ._geometry import Geometry
from ._problem import Problem

LANES = 128
SUBLANES = 8
BUDGET = 12 << 20
"""Bytes of blocks and scratch. The compiler's limit is 16 MiB on every chip, of which it needs some for itself."""
ROWS = 512
"""Rows of a product that hide the loading of its 128x128 weights."""
REREAD = 1.1
"""So many times may all that is needed be read."""
MOST_PRODUCTS = 512
"""Taps, each a product that is written out in the kernel; more compile for minutes."""


class Phase(NamedTuple):
    """Of one dimension: `taps` of them, first + stride*m, reach it from `shift - m`."""

    first: int
    shift: int
    taps: int


@dataclasses.dataclass(frozen=True)
class Line:
    """One dimension."""

    input: int
    kernel: int
    output: int
    stride: int
    low: int

    @property
    def blocks(self) -> int:
        return -(-self.output // self.stride)

    @property
    def phases(self) -> list[Phase]:
        """Those that have an output.

        >>> Line(input=4, kernel=3, output=8, stride=2, low=0).phases
        [Phase(first=0, shift=0, taps=2), Phase(first=1, shift=0, taps=1)]
        """
        firsts = [divmod(r + self.low, self.stride) for r in range(min(self.stride, self.output))]
        return [Phase(first, shift, max(0, -(-(self.kernel - first) // self.stride))) for shift, first in firsts]

    @property
    def shifts(self) -> tuple[int, int]:
        """The lowest and the highest; (0, 0) where no tap is."""
        ends = [(p.shift - p.taps + 1, p.shift) for p in self.phases if p.taps]
        return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0, 0)

    @property
    def halo(self) -> int:
        """Input positions that a block needs beside one each."""
        low, high = self.shifts
        return high - low


@dataclasses.dataclass(frozen=True)
class Tiles:
    """One step's share."""

    images: int
    rows: int
    """Blocks of outputs in height."""
    window: int
    """Input rows held."""
    outputs: int
    """Channels."""
    outputs_first: bool
    """Whether all images are done for some channels before the next ones; else the other way round."""


def lines(geometry: Geometry) -> tuple[Line, Line]:
    """Height and width; a line has height 1."""
    sizes = zip(geometry.input, geometry.kernel, geometry.output, geometry.strides, geometry.low, strict=True)
    found = [Line(*line) for line in sizes]
    return (found[0] if len(found) > 1 else Line(1, 1, 1, 1, 0)), found[-1]


class Place(NamedTuple):
    """Where the scratch holds the input's columns at one shift."""

    shift: int
    lane: int


def joins(inputs: int) -> bool:
    """Whether a phase's taps in width are side by side, so that one product has whole lanes of few channels."""
    return inputs < LANES


def places(width: Line, inputs: int) -> list[Place]:
    """Joined: those of each phase from whole lanes on, in the order of their shifts. Else each shift's once.

    >>> places(Line(input=4, kernel=3, output=8, stride=2, low=0), 64)
    [Place(shift=-1, lane=0), Place(shift=0, lane=64), Place(shift=0, lane=128)]
    """
    if not joins(inputs):
        low, high = width.shifts
        return [Place(shift, (shift - low) * _up(inputs, LANES)) for shift in range(low, high + 1)]
    apart = phase_lanes(width, inputs)
    return [
        Place(phase.shift - phase.taps + 1 + k, number * apart + k * inputs)
        for number, phase in enumerate(width.phases)
        for k in range(phase.taps)
    ]


def phase_lanes(width: Line, inputs: int) -> int:
    """From a phase's first lane to the next one's."""
    return _up(max(1, *(phase.taps for phase in width.phases)) * inputs, LANES)


def lanes(width: Line, inputs: int) -> int:
    """Of a row of the scratch."""
    if joins(inputs):
        return len(width.phases) * phase_lanes(width, inputs)
    return (width.halo + 1) * _up(inputs, LANES)


def columns(width: Line, itemsize: int) -> int:
    """Blocks of outputs in width, filled up to whole tiles."""
    return _up(width.blocks, SUBLANES * 4 // itemsize)


def tiles(
    batch: int, height: Line, width: Line, inputs: int, outputs: int, itemsize: int, read: int, written: int
) -> Tiles | None:
    """The largest steps that fit; None: not even the smallest do.

    `itemsize`: bytes of a product's operand; `read`, `written`: of an element of the input and the output.
    """

    def fits(tile: Tiles) -> bool:
        return used(tile, height, width, inputs, outputs, itemsize, read, written) <= BUDGET

    found = [tile for tile in _candidates(batch, height, width, outputs, itemsize) if fits(tile)]
    if not found:
        return None
    size = (inputs * read * batch * height.input * width.input, inputs * outputs * height.kernel * width.kernel)

    def cost(tile: Tiles) -> tuple[float, int, int, int]:
        """Times that all is read, if above `REREAD`; then rows of a product, up to `ROWS`; then parts, fewer first."""
        again, weights = traffic(tile, height, batch, outputs)
        moved = (size[0] * again + size[1] * itemsize * weights) / (size[0] + size[1] * itemsize)
        m = tile.images * tile.rows * columns(width, itemsize)
        return (max(moved, REREAD), -min(m, ROWS), -tile.outputs, m)

    return min(found, key=cost)


def of(problem: Problem) -> Tiles | None:
    """The steps of a problem at the default precision; None: at some precision there is no kernel for it."""
    if problem.taps > MOST_PRODUCTS:
        return None
    size = 2 if problem.dtype == "bfloat16" else 4
    channels = problem.inputs, problem.outputs
    # float32 is rounded to bfloat16, unless the caller's precision asks for more.
    operands = sorted({2, size})
    found = [tiles(problem.batch, *lines(problem.geometry), *channels, one, size, size) for one in operands]
    return None if None in found else found[0]


def traffic(tile: Tiles, height: Line, batch: int, outputs: int) -> tuple[float, int]:
    """How many times input and weights are read."""
    parts = -(-outputs // tile.outputs)
    if tile.outputs_first or parts == 1:
        return reread(tile, height) * parts, 1
    return reread(tile, height) * (1 if tile.window == height.input else parts), batch // tile.images


def reread(tile: Tiles, height: Line) -> float:
    """How many times an image is read for all its blocks of rows."""
    if tile.window == height.input:
        return 1
    return -(-height.blocks // tile.rows) * tile.window / height.input


def _candidates(batch: int, height: Line, width: Line, outputs: int, itemsize: int) -> Iterator[Tiles]:
    whole = [outputs, *(n for n in (1024, 512, 256, 128) if n < outputs)]
    blocks = height.blocks
    rows = sorted({-(-blocks // parts) for parts in range(1, blocks + 1)})
    images = [n for n in range(1, batch + 1) if batch % n == 0]
    for n in whole:
        for first in (True, False) if n < outputs else (True,):
            for r in rows:
                for window in {height.input, min(height.input, r + height.halo)}:
                    yield Tiles(1, r, window, n, first)
            for count in images[1:]:
                if count * blocks * columns(width, itemsize) <= ROWS:
                    yield Tiles(count, blocks, height.input, n, first)


def used(
    tile: Tiles, height: Line, width: Line, inputs: int, outputs: int, itemsize: int, read: int, written: int
) -> int:
    """Bytes of VMEM: blocks, two of each that changes, scratch, and a sum with the term that is added to it."""
    n = _up(tile.outputs, LANES)
    across = columns(width, itemsize)
    x = tile.images * tile.window * _up(width.input, 32 // read) * _up(inputs, LANES) * read
    weights = lanes(width, inputs) if joins(inputs) else width.kernel * _up(inputs, LANES)
    w = height.kernel * _up(tile.outputs, 32 // itemsize) * weights * itemsize
    y = tile.images * tile.rows * height.stride * _up(width.output, 32 // written) * n * written
    shifted = tile.images * (tile.rows + height.halo) * across * lanes(width, inputs) * itemsize
    sums = tile.images * tile.rows * across * n * 4
    interleaved = sums * width.stride
    return 2 * x + (1 if tile.outputs == outputs else 2) * w + 2 * y + shifted + interleaved + 2 * sums


def _up(size: int, multiple: int) -> int:
    return math.ceil(size / multiple) * multiple
