"""Estimated cycles in the text of a compiled TPU program. The compiler's estimate, never a time.

The compiler leaves much movement between fusions unpriced, and prices some copies at thousands of bytes a cycle. Here
each is charged what priced copies cost, or at the least a cycle for every 1024 bytes that it writes. What a fusion
does inside is in the fusion's own estimate; asynchronous copies are free, since other work runs beside them.
"""

import math
import re
from typing import NamedTuple

MOVEMENT = frozenset(("slice", "pad", "reshape", "concatenate", "reverse", "copy"))
# What priced copies read and write a cycle.
BYTES_A_CYCLE = {"v4": 300, "v5e": 300, "v6e": 400}
MOST_WRITTEN_A_CYCLE = 1024
BITS = {"pred": 8, "bf16": 16, "f16": 16} | {f"{kind}{bits}": bits for kind in "suf" for bits in (8, 16, 32, 64)}

_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%([\w.-]+) = (\([^=]*?\)|\S+) ([\w-]+)\((.*)")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]\{([\d,]*)(?::([^}]*))?\}")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class Cycles(NamedTuple):
    """One program's cycles."""

    priced: int  # by the compiler
    charged: int  # for movement, on top of that

    @property
    def total(self) -> int:
        return self.priced + self.charged


def cycles(program: str, chip: str) -> Cycles:
    """The estimate for the text of a compiled program.

    >>> cycles('''ENTRY %main (x: f32[8,128]) -> f32[6,128] {
    ...   %x = f32[8,128]{1,0:T(8,128)} parameter(0)
    ...   ROOT %cut = f32[6,128]{1,0:T(8,128)} slice(%x), slice={[0:6], [0:128]}
    ... }''', "v5e")
    Cycles(priced=0, charged=28)
    """
    priced = charged = 0
    for computation in _outside_fusions(program):
        bytes_of: dict[str, int] = {}
        for name, type_, operation, rest in (match.groups() for match in map(_INSTRUCTION.match, computation) if match):
            bytes_of[name] = tiled_bytes(type_)
            found = _CYCLES.search(rest)
            estimate = int(found[1]) if found else 0
            priced += estimate
            if operation in MOVEMENT:
                operands = re.findall(r"%([\w.-]+)", rest.split(")", 1)[0])
                read = sum(bytes_of[operand] for operand in operands)
                charged += max(0, _cost(operation, read, bytes_of[name], chip, estimate) - estimate)
    return Cycles(priced, charged)


def _cost(operation: str, read: int, written: int, chip: str, estimate: int) -> int:
    """The least that movement of so many bytes is charged."""
    least = math.ceil(written / MOST_WRITTEN_A_CYCLE)
    if estimate:
        return least
    if operation == "slice":  # it reads no more than it writes
        read = min(read, written)
    return max(least, math.ceil((read + written) / BYTES_A_CYCLE[chip]))


def tiled_bytes(type_: str) -> int:
    """The bytes of all arrays in an HLO type, padded to whole tiles.

    >>> tiled_bytes("bf16[3,5,100]{2,1,0:T(8,128)(2,1)}") == 3 * 8 * 128 * 2
    True
    """
    return sum(_array_bytes(*array) for array in _ARRAY.findall(type_))


def _array_bytes(kind: str, dimensions: str, order: str, tiling: str) -> int:
    shape = [int(size) for size in dimensions.split(",") if size]
    minor_first = [shape[int(axis)] for axis in order.split(",") if axis]
    tile = re.match(r"T\(([\d,]+)\)", tiling)
    edges = [int(edge) for edge in reversed(tile[1].split(","))] if tile else []
    padded = [1] * (len(edges) - len(minor_first))
    minor_first += padded
    whole = [-(-size // edge) * edge for size, edge in zip(minor_first, edges, strict=False)]
    return math.prod(whole + minor_first[len(edges) :]) * BITS.get(kind, 0) // 8


def _outside_fusions(program: str) -> list[list[str]]:
    """The instructions of each computation that no fusion consists of."""
    fused = set(re.findall(r"calls=%([\w.-]+)", program))
    computations = re.findall(r"^(?:ENTRY )?%([\w.-]+) \(.*?\{\n(.*?)^\}", program, re.MULTILINE | re.DOTALL)
    return [body.splitlines() for name, body in computations if name not in fused]
