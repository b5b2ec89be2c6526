"""How the TPU kernel cuts a transposed convolution into steps that fit its memory. Integers; no JAX here.

Blocks are aligned to the output: position q = stride*b + r is phase r of block b. Tap t = first + stride*m reaches q
from input position b + shift, where first = (r + low) mod stride and shift = (r + low) div stride - m.
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
"""Bytes of VMEM for blocks and scratch. Every chip's limit is 16 MiB, and the compiler needs some of it."""
ROWS = 512
"""So many rows of a product hide the loading of its 128x128 weights."""
MOST_COPIED = 1.1
"""How many times the bytes of input, weights and output a plan may copy."""
PART = 16
"""A part of the width is a multiple of so many blocks: whole tiles of the narrowest type."""
MOST_PRODUCTS = 512
"""The most taps. The kernel has a product for each, and more compile for minutes."""


class Phase(NamedTuple):
    """A phase of one dimension: its `taps` taps first + stride*m reach it from `shift - m`."""

    first: int
    shift: int
    taps: int


@dataclasses.dataclass(frozen=True)
class Dimension:
    """The geometry of one dimension."""

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
        """The phases that have an output.

        >>> Dimension(input=4, kernel=3, output=8, stride=2, low=0).phases
        [Phase(first=0, shift=0, taps=2), Phase(first=1, shift=0, taps=1)]
        """
        firsts = [divmod(r + self.low, self.stride) for r in range(min(self.stride, self.output))]
        return [Phase(first, shift, max(0, -(-(self.kernel - first) // self.stride))) for shift, first in firsts]

    @functools.cached_property
    def shifts(self) -> tuple[int, int]:
        """The lowest and the highest shift; (0, 0) without taps."""
        ends = [(p.shift - p.taps + 1, p.shift) for p in self.phases if p.taps]
        return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0, 0)

    @property
    def halo(self) -> int:
        """How many more input positions than blocks a run of blocks needs."""
        low, high = self.shifts
        return high - low


@dataclasses.dataclass(frozen=True)
class Call:
    """The sizes of one call of the kernel."""

    batch: int
    height: Dimension
    width: Dimension
    inputs: int
    """Channels."""
    outputs: int
    operand: int
    """Bytes an element of a product's operands; `read`: of the input; `written`: of the output."""
    read: int
    written: int


@dataclasses.dataclass(frozen=True)
class Tiles:
    """What one step computes and holds."""

    images: int
    rows: int
    """Blocks of outputs in height."""
    input_rows: int
    """Rows of the input in VMEM."""
    columns: int
    """Blocks of outputs in width, filled up to whole tiles."""
    input_columns: int
    """Columns of the input in VMEM."""
    outputs: int
    """Channels."""
    outputs_first: bool
    """Whether the outer loop is over parts of the output channels, and not over images."""


def dimensions(geometry: Geometry) -> tuple[Dimension, Dimension]:
    """Height and width; in 1-D the height is 1."""
    sizes = zip(geometry.input, geometry.kernel, geometry.output, geometry.strides, geometry.low, strict=True)
    found = [Dimension(*line) for line in sizes]
    return (found[0] if len(found) > 1 else Dimension(1, 1, 1, 1, 0)), found[-1]


class Place(NamedTuple):
    """Where the scratch holds the input's columns at one shift."""

    shift: int
    lane: int


def joins_taps(inputs: int) -> bool:
    """Whether a phase's taps in width lie side by side, so that few channels fill the lanes of one product."""
    return inputs < LANES


def places(width: Dimension, inputs: int) -> list[Place]:
    """Joined taps: for each phase from whole lanes on, by shift. Otherwise each shift once.

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
    """Lanes from one phase's first lane to the next phase's."""
    return _up(max(1, *(phase.taps for phase in width.phases)) * inputs, LANES)


def lanes(width: Dimension, inputs: int) -> int:
    """Lanes of a row of the scratch."""
    if joins_taps(inputs):
        return len(width.phases) * phase_lanes(width, inputs)
    return (width.halo + 1) * _up(inputs, LANES)


def tiles(call: Call) -> Tiles | str:
    """The largest steps that fit, or why there is no kernel.

    Whole rows if they copy little. Else a step may take part of the width, and the columns its taps reach beside it.
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
    """The call at default precision (float32 is rounded to bfloat16), with a result of the operands' type."""
    size = 2 if problem.dtype == "bfloat16" else 4
    height, width = dimensions(problem.geometry)
    return Call(problem.batch, height, width, problem.inputs, problem.outputs, 2, size, size)


def tiles_for(problem: Problem) -> Tiles | str:
    """The default call's steps, or why some precision or result type has no kernel."""
    call = default_call(problem)
    widest = tiles(dataclasses.replace(call, operand=call.read, written=4))
    return widest if isinstance(widest, str) else tiles(call)


def copied_ratio(tile: Tiles, call: Call) -> float:
    """Bytes that the steps copy between HBM and VMEM, over the bytes of input, weights and output."""
    y = call.written * call.outputs * call.batch * call.height.output * call.width.output
    read, needed = _read(tile, call)
    return (read + y) / (needed + y)


def steps_in_width(tile: Tiles, width: Dimension) -> int:
    """Steps in width."""
    return -(-width.blocks // tile.columns)


def first_column(tile: Tiles, width: Dimension) -> int:
    """The input column, maybe beyond its ends, where the first step begins; each next step begins `columns` later.

    Whole rows begin at 0, parts at whole tiles of memory.
    """
    return 0 if steps_in_width(tile, width) == 1 else width.shifts[0] // SUBLANES * SUBLANES


def last_start(tile: Tiles, width: Dimension) -> int:
    """The highest column where a step's input may begin: from there it reaches the input's end."""
    return _up(width.input, tile.input_columns) - tile.input_columns


class Edge(NamedTuple):
    """A step in width that reaches beyond the input."""

    step: int
    start: int
    """Where the step's columns begin, in those in VMEM."""
    end: int
    """Where the input ends, likewise."""


def edges(tile: Tiles, width: Dimension) -> list[Edge]:
    """The steps that reach beyond the input, without those that reach nothing else."""
    found = []
    for step in range(steps_in_width(tile, width)):
        first = step * tile.columns + first_column(tile, width)
        held = min(max(first, 0), last_start(tile, width))
        if first < 0 < first + tile.input_columns or first < width.input < first + tile.input_columns:
            found.append(Edge(step, first - held, width.input - held))
    return found


def _cost(tile: Tiles, call: Call) -> tuple[float, int, int, float, int]:
    """The copied ratio above `MOST_COPIED`; then rows of a product up to `ROWS`, parts, reading again, and size."""
    read, needed = _read(tile, call)
    m = tile.images * tile.rows * tile.columns
    return max(copied_ratio(tile, call), MOST_COPIED), -min(m, ROWS), -tile.outputs, max(read / needed, MOST_COPIED), m


def _read(tile: Tiles, call: Call) -> tuple[float, int]:
    """Bytes of input and weights: as often as they are read, and once."""
    x = call.read * call.inputs * call.batch * call.height.input * call.width.input
    w = call.operand * call.inputs * call.outputs * call.height.kernel * call.width.kernel
    parts, images = -(-call.outputs // tile.outputs), call.batch // tile.images
    held = tile.input_rows == call.height.input and steps_in_width(tile, call.width) == 1
    again, weights = (parts, 1) if tile.outputs_first else (1 if held else parts, 1 if parts == 1 else images)
    return x * _reread(tile, call) * again + w * weights, x + w


def _reread(tile: Tiles, call: Call) -> float:
    """How many times an image is read to compute all its blocks."""
    rows, columns = -(-call.height.blocks // tile.rows), steps_in_width(tile, call.width)
    again = 1 if tile.input_rows == call.height.input else rows * tile.input_rows / call.height.input
    return again * (1 if columns == 1 else columns * tile.input_columns / call.width.input)


def spans(call: Call) -> list[tuple[int, int]]:
    """What a step may take of the width: blocks of outputs, and input columns. The whole width comes first."""
    width, blocks = call.width, call.width.blocks
    parts = {_up(-(-blocks // number), PART) for number in range(2, -(-blocks // PART) + 1)}
    low, high = width.shifts
    reach = high - low // SUBLANES * SUBLANES
    whole = _up(blocks, SUBLANES * 4 // call.operand), width.input
    return [whole, *((part, _up(part + reach, SUBLANES)) for part in sorted(parts) if part < blocks)]


def candidates(call: Call, spans: Sequence[tuple[int, int]]) -> Iterator[Tiles]:
    """All ways to cut, whether they fit or not; `spans`: the ways in width, the whole width first."""
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
    """Bytes of VMEM: blocks (twice if they change), scratch, and a sum with the term added to it."""
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
