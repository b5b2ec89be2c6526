"""How the product of `pallas_gpu` is cut into one tile a program; sides are powers of two, for Triton. No JAX here."""

import dataclasses
import math

LONGEST_SIDE = 128
"""The most rows or columns of a tile: 64 KiB of float32 sums, 64 registers for each thread of 8 warps."""
SHORTEST_SIDE = 16
"""The fewest rows, columns or terms: as many as tensor cores multiply at once."""
CACHE_LINE = 128
"""Bytes of each row and column that a step reads."""
SHARED_MEMORY = 96 * 1024
"""Bytes for all steps in flight. GPUs since Ampere allow a program 99 KiB or more."""
MOST_STAGES = 4
"""The most steps in flight: one is multiplied while the next are read."""
PROCESSORS = 132
"""An H100 has so many. Fewer programs leave some idle, so tiles are halved until there are enough."""


@dataclasses.dataclass(frozen=True)
class Product:
    """The sizes of the whole product; `fused`: whether a tile may have columns of several phases."""

    rows: int
    phases: int
    outputs: int
    taps: int
    inputs: int
    itemsize: int
    fused: bool


@dataclasses.dataclass(frozen=True)
class Tile:
    """`phases * outputs` columns; each step adds `taps * inputs` terms."""

    rows: int
    phases: int
    outputs: int
    taps: int
    inputs: int
    warps: int
    stages: int

    @property
    def columns(self) -> int:
        return self.phases * self.outputs

    @property
    def depth(self) -> int:
        return self.taps * self.inputs

    def grid(self, product: Product) -> tuple[int, int, int]:
        """How many tiles there are of rows, phases and outputs."""
        sizes = ((product.rows, self.rows), (product.phases, self.phases), (product.outputs, self.outputs))
        rows, phases, outputs = (-(-whole // part) for whole, part in sizes)
        return rows, phases, outputs

    def shared(self, itemsize: int) -> int:
        """Bytes of shared memory for the operands of all steps in flight."""
        return self.stages * (self.rows + self.columns) * self.depth * itemsize


def tile_for(product: Product) -> Tile:
    """The largest tile that leaves no processor idle.

    If channels are few, several phases share a tile's columns, and several taps a step's terms.

    >>> tile_for(Product(16384, 4, 64, 4, 128, 2, fused=True))
    Tile(rows=128, phases=2, outputs=64, taps=1, inputs=64, warps=8, stages=3)
    """
    inputs, taps = _shares(product.inputs, product.taps, CACHE_LINE // product.itemsize)
    rows = min(LONGEST_SIDE, _power(product.rows))
    most = LONGEST_SIDE
    while True:
        outputs, phases = _shares(product.outputs, product.phases if product.fused else 1, most)
        columns = outputs * phases
        warps = 8 if rows * columns > LONGEST_SIDE * LONGEST_SIDE // 2 else 4
        stages = min(MOST_STAGES, SHARED_MEMORY // ((rows + columns) * inputs * taps * product.itemsize))
        tile = Tile(rows, phases, outputs, taps, inputs, warps, stages)
        if math.prod(tile.grid(product)) >= PROCESSORS or max(rows, columns) <= 2 * SHORTEST_SIDE:
            return tile
        if rows >= columns:
            rows //= 2
        else:
            most = columns // 2


def _shares(channels: int, others: int, most: int) -> tuple[int, int]:
    """How many channels and how many of the others to take: their product is from SHORTEST_SIDE to `most`."""
    own = min(most, _power(channels, least=1))
    shared = min(most // own, _power(others, least=1))
    return max(own, SHORTEST_SIDE // shared), shared


def _power(number: int, least: int = SHORTEST_SIDE) -> int:
    """The next power of two, at least `least`."""
    return max(least, 1 << math.ceil(math.log2(number)))
