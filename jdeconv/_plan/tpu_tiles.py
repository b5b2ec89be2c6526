"""How the TPU's kernel cuts a transposed convolution into steps that fit its memory. Integers; no JAX.

Blocks are aligned to the output: position q = stride*b + r is phase r of block b. Tap t reaches it from input position
b + shift, where t = first + stride*m, first = (r + low) mod stride and shift = (r + low) div stride - m.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .._geometry import Geometry
from .problem import Problem

LANES = 128
SUBLANES = 8
BUDGET = 12 << 20
"""Bytes of blocks and scratch. The compiler's limit is 16 MiB on every chip, of which it needs some for itself."""
ROWS = 512
"""Rows of a product that hide the loading of its 128x128 weights."""
MOST_COPIED = 1.1
"""So many times the bytes of input, weights and output may be copied."""
PART = 16
"""A step that takes part of the width takes a multiple of so many blocks: whole tiles of the narrowest type."""
MOST_PRODUCTS = 512
"""Taps, each a product that is written out in the kernel; more compile for minutes."""


class Phase(NamedTuple):
    """Of one dimension: `taps` of them, first + stride*m, reach it from `shift - m`."""

    first: int
    shift: int
    taps: int


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One dimension."""

    input: int
    kernel: int
    output: int
    stride: int
    low: int

    @property
    def blocks(self) -> int:
        return -(-self.output // self.stride)

    @functools.cached_property
    def phases(self) -> list[Phase]:
        """Those that have an output.

        >>> Dimension(input=4, kernel=3, output=8, stride=2, low=0).phases
        [Phase(first=0, shift=0, taps=2), Phase(first=1, shift=0, taps=1)]
        """
        firsts = [divmod(r + self.low, self.stride) for r in range(min(self.stride, self.output))]
        return [Phase(first, shift, max(0, -(-(self.kernel - first) // self.stride))) for shift, first in firsts]

    @functools.cached_property
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
class Call:
    """What the kernel is called for."""

    batch: int
    height: Dimension
    width: Dimension
    inputs: int
    """Channels."""
    outputs: int
    operand: int
    """Bytes of an element of a product's operands; `read` and `written`: of the input and the output."""
    read: int
    written: int


@dataclasses.dataclass(frozen=True)
class Tiles:
    """One step's share."""

    images: int
    rows: int
    """Blocks of outputs in height."""
    input_rows: int
    """Input rows held."""
    columns: int
    """Blocks of outputs in width, filled up to whole tiles."""
    input_columns: int
    """Input columns held."""
    outputs: int
    """Channels."""
    outputs_first: bool
    """Whether all images are done for some channels before the next ones; else the other way round."""


def dimensions(geometry: Geometry) -> tuple[Dimension, Dimension]:
    """Height and width; a line has height 1."""
    sizes = zip(geometry.input, geometry.kernel, geometry.output, geometry.strides, geometry.low, strict=True)
    found = [Dimension(*line) for line in sizes]
    return (found[0] if len(found) > 1 else Dimension(1, 1, 1, 1, 0)), found[-1]


class Place(NamedTuple):
    """Where the scratch holds the input's columns at one shift."""

    shift: int
    lane: int


def joins_taps(inputs: int) -> bool:
    """Whether a phase's taps in width are side by side, so that one product has whole lanes of few channels."""
    return inputs < LANES


def places(width: Dimension, inputs: int) -> list[Place]:
    """Joined: those of each phase from whole lanes on, in the order of their shifts. Else each shift's once.

    >>> places(Dimension(input=4, kernel=3, output=8, stride=2, low=0), 64)
    [Place(shift=-1, lane=0), Place(shift=0, lane=64), Place(shift=0, lane=128)]
    """
    if not joins_taps(inputs):
        low, high = width.shifts
        return [Place(shift, (shift - low) * _up(inputs, LANES)) for shift in range(low, high + 1)]
    apart = phase_lanes(width, inputs)
    return [
        Place(phase.shift - phase.taps + 1 + k, number * apart + k * inputs)
        for number, phase in enumerate(width.phases)
        for k in range(phase.taps)
    ]


def phase_lanes(width: Dimension, inputs: int) -> int:
    """From a phase's first lane to the next one's."""
    return _up(max(1, *(phase.taps for phase in width.phases)) * inputs, LANES)


def lanes(width: Dimension, inputs: int) -> int:
    """Of a row of the scratch."""
    if joins_taps(inputs):
        return len(width.phases) * phase_lanes(width, inputs)
    return (width.halo + 1) * _up(inputs, LANES)


def tiles(call: Call) -> Tiles | str:
    """The largest steps that fit, or why there is no kernel.

    Whole rows if they move little; else a step may take part of the width, with what its taps reach beside that.
    """
    products = call.height.kernel * call.width.kernel
    if products > MOST_PRODUCTS:
        return f"{products} products written out; expected at most {MOST_PRODUCTS}"

    def best(spans: Sequence[tuple[int, int]]) -> Tiles | None:
        fitting = (tile for tile in candidates(call, spans) if vmem_bytes(tile, call) <= BUDGET)
        return min(fitting, key=lambda tile: _cost(tile, call), default=None)

    whole, *parts = spans(call)
    found = best([whole])
    if found is None or copied_ratio(found, call) > MOST_COPIED:
        found = best([whole, *parts])
    if found is None:
        channels = f"{products} taps from {call.inputs} to {min(call.outputs, LANES)} channels"
        return f"{channels} and what a step holds beside them exceed a TPU's VMEM; expected at most {BUDGET >> 20} MiB"
    return found


def default_call(problem: Problem) -> Call:
    """At the default precision, which rounds float32 to bfloat16, to a result of the operands' type."""
    size = 2 if problem.dtype == "bfloat16" else 4
    height, width = dimensions(problem.geometry)
    return Call(problem.batch, height, width, problem.inputs, problem.outputs, 2, size, size)


def tiles_for(problem: Problem) -> Tiles | str:
    """The steps by default, or why there is no kernel for it at some precision or to some type of result."""
    call = default_call(problem)
    widest = tiles(dataclasses.replace(call, operand=call.read, written=4))
    return widest if isinstance(widest, str) else tiles(call)


def copied_ratio(tile: Tiles, call: Call) -> float:
    """What the steps copy between HBM and VMEM, over the bytes of input, weights and output."""
    y = call.written * call.outputs * call.batch * call.height.output * call.width.output
    read, needed = _read(tile, call)
    return (read + y) / (needed + y)


def steps_in_width(tile: Tiles, width: Dimension) -> int:
    """Steps in width."""
    return -(-width.blocks // tile.columns)


def first_column(tile: Tiles, width: Dimension) -> int:
    """Of the input, held for the first blocks, whether it has such a one or not; the next blocks' is `columns` later.

    Whole rows begin at 0. A part begins at a whole tile of memory.
    """
    return 0 if steps_in_width(tile, width) == 1 else width.shifts[0] // SUBLANES * SUBLANES


def last_start(tile: Tiles, width: Dimension) -> int:
    """The highest column at which what is held may begin: from there on it reaches the input's end."""
    return _up(width.input, tile.input_columns) - tile.input_columns


class Edge(NamedTuple):
    """A step in width that reaches beyond the input."""

    step: int
    start: int
    """Of its columns, among those held."""
    end: int
    """Of the input, likewise."""


def edges(tile: Tiles, width: Dimension) -> list[Edge]:
    """But for the steps that only reach what is beyond."""
    found = []
    for step in range(steps_in_width(tile, width)):
        first = step * tile.columns + first_column(tile, width)
        held = min(max(first, 0), last_start(tile, width))
        if first < 0 < first + tile.input_columns or first < width.input < first + tile.input_columns:
            found.append(Edge(step, first - held, width.input - held))
    return found


def _cost(tile: Tiles, call: Call) -> tuple[float, int, int, float, int]:
    """Bytes, if above `MOST_COPIED`; then rows of a product, up to `ROWS`; then parts, reading again, and size."""
    read, needed = _read(tile, call)
    m = tile.images * tile.rows * tile.columns
    return max(copied_ratio(tile, call), MOST_COPIED), -min(m, ROWS), -tile.outputs, max(read / needed, MOST_COPIED), m


def _read(tile: Tiles, call: Call) -> tuple[float, int]:
    """Bytes of input and weights: those that are read, and those of each once."""
    x = call.read * call.inputs * call.batch * call.height.input * call.width.input
    w = call.operand * call.inputs * call.outputs * call.height.kernel * call.width.kernel
    parts, images = -(-call.outputs // tile.outputs), call.batch // tile.images
    held = tile.input_rows == call.height.input and steps_in_width(tile, call.width) == 1
    again, weights = (parts, 1) if tile.outputs_first else (1 if held else parts, 1 if parts == 1 else images)
    return x * _reread(tile, call) * again + w * weights, x + w


def _reread(tile: Tiles, call: Call) -> float:
    """How many times an image is read for all its blocks."""
    rows, columns = -(-call.height.blocks // tile.rows), steps_in_width(tile, call.width)
    again = 1 if tile.input_rows == call.height.input else rows * tile.input_rows / call.height.input
    return again * (1 if columns == 1 else columns * tile.input_columns / call.width.input)


def spans(call: Call) -> list[tuple[int, int]]:
    """Of a step in width: blocks of outputs, and input columns. The whole width first."""
    width, blocks = call.width, call.width.blocks
    parts = {_up(-(-blocks // number), PART) for number in range(2, -(-blocks // PART) + 1)}
    low, high = width.shifts
    reach = high - low // SUBLANES * SUBLANES
    whole = _up(blocks, SUBLANES * 4 // call.operand), width.input
    return [whole, *((part, _up(part + reach, SUBLANES)) for part in sorted(parts) if part < blocks)]


def candidates(call: Call, spans: Sequence[tuple[int, int]]) -> Iterator[Tiles]:
    """All ways to cut, fitting or not; `spans` are those in width, the whole first."""
    outputs, height, blocks = call.outputs, call.height, call.height.blocks
    rows = sorted({-(-blocks // parts) for parts in range(1, blocks + 1)})
    images = [n for n in range(2, call.batch + 1) if call.batch % n == 0]
    for n in (outputs, *(n for n in (1024, 512, 256, 128) if n < outputs)):
        for first in (True, False) if n < outputs else (True,):
            for span in spans:
                for r in rows:
                    for input_rows in {height.input, min(height.input, r + height.halo)}:
                        yield Tiles(1, r, input_rows, *span, n, first)
            for count in images:
                if count * blocks * spans[0][0] <= ROWS:
                    yield Tiles(count, blocks, height.input, *spans[0], n, first)


def vmem_bytes(tile: Tiles, call: Call) -> int:
    """Bytes of VMEM: blocks, two of each that changes, scratch, and a sum with the term that is added to it."""
    height, width, inputs = call.height, call.width, call.inputs
    n = _up(tile.outputs, LANES)
    x = tile.images * tile.input_rows * _up(tile.input_columns, 32 // call.read) * _up(inputs, LANES) * call.read
    weights = lanes(width, inputs) if joins_taps(inputs) else width.kernel * _up(inputs, LANES)
    w = height.kernel * _up(tile.outputs, 32 // call.operand) * weights * call.operand
    line = min(width.output, tile.columns * width.stride)
    y = tile.images * tile.rows * height.stride * _up(line, 32 // call.written) * n * call.written
    shifted = tile.images * (tile.rows + height.halo) * tile.columns * lanes(width, inputs) * call.operand
    sums = tile.images * tile.rows * tile.columns * n * 4
    interleaved = sums * width.stride
    return 2 * x + (1 if tile.outputs == call.outputs else 2) * w + 2 * y + shifted + interleaved + 2 * sums


def _up(size: int, multiple: int) -> int:
    return math.ceil(size / multiple) * multiple
