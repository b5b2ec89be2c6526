"""Issue cycles of a Pallas kernel: the bundles of its schedule, times the trips of the loops that they are in.

The TPU's compiler gives no estimate for such a kernel, but it writes down the schedule: one instruction bundle a line,
and a cycle each. Waiting for memory is not counted. The kernel's loops copy what XLA keeps in VMEM. Where the last
block is smaller, their trips are known only at run time, so they are counted as for a whole block.
"""

import math
import operator
import re
from collections.abc import Callable

# "0x36 LB: >> {": address, a label where a loop's body begins, a sign for each loop around it.
_BUNDLE = re.compile(r"\s*(?:0x[0-9a-f]+|0)\s+(\w\w)?\s*:\s*([> ]*)\{(.*)")
_EXIT = re.compile(r"scmp\.ge\.s32\.totalorder [^,]*, (\d+) /\* loop exit test \*/")
_LIMIT = re.compile(r"scmp\.ge\.s32\.totalorder %[^,]*, (%\w+)")
# "%s3_s4 = sshrl.u32 (!%p5), %s6, 5": a register, its operation, the predicate, the operands.
_DEFINITION = re.compile(r"(%s\w+) = (s\w+\.\w+) (?:\([^)]*\), )?([^;}/]*)")
_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "sshrl.u32": operator.rshift,
    "sshll.u32": operator.lshift,
    "sand.u32": operator.and_,
    "smul.u32": operator.mul,
    "smulhi.u32": lambda a, b: a * b >> 32,
    "ssub.s32": operator.sub,
}
FILL_AND_DRAIN = 2
"""Trips of the outermost loop, over the grid, that only start the first copies and wait for the last."""


def issue_cycles(schedule: str) -> int:
    """The issue cycles in the text of a schedule.

    >>> issue_cycles('''
    ...    0x1   :  { %1 = nop }
    ...    0x2 LB: > { %2 = nop }
    ...    0x3 LB: >> { %3 = nop ;; %p = scmp.ge.s32.totalorder %s254_s8, 5 /* loop exit test */ }
    ...    0x4   : > { %p = scmp.ge.s32.totalorder %s19_s19, 12 /* loop exit test */ }''')  # 1 + 10 * (2 + 5)
    71
    >>> issue_cycles('''
    ...    0x1 LB: > { %s1 = smov.u32 (!%p1, %s0), 96 ;; %s2 = sshrl.u32 (!%p2), %s1, 5 }
    ...    0x2 LB: >> { %p3 = scmp.ge.s32.totalorder %s9, %s2 }
    ...    0x3   : > { %p = scmp.ge.s32.totalorder %s19_s19, 12 /* loop exit test */ }''')  # 10 * (2 + 96 / 32)
    50
    """
    loops: list[int] = []  # the enclosing loops' numbers, outermost first
    trips: dict[int, int] = {}
    limits: dict[int, str] = {}
    bundles: dict[tuple[int, ...], int] = {}
    count = 0
    for label, signs, rest in (match.groups() for match in map(_BUNDLE.match, schedule.splitlines()) if match):
        depth = signs.count(">")
        if label == "LB":
            count += 1
            loops = [*loops[: depth - 1], count]
        here = tuple(loops[:depth])
        bundles[here] = bundles.get(here, 0) + 1
        if found := _EXIT.search(rest):
            trips[here[-1]] = int(found[1]) - (FILL_AND_DRAIN if depth == 1 else 0)
        elif here and (found := _LIMIT.search(rest)):
            limits[here[-1]] = found[1]
    if unknown := limits.keys() - trips.keys():
        registers = {name: (operation, operands) for name, operation, operands in _DEFINITION.findall(schedule)}
        trips |= {loop: _of_whole_block(limits[loop], registers) for loop in unknown}
    return sum(number * math.prod(trips[loop] for loop in where) for where, number in bundles.items())


def _of_whole_block(value: str, registers: dict[str, tuple[str, str]]) -> int:
    """A number or register; `smov` chooses between what is left and the whole block's constant.

    >>> registers = {"%s1": ("smov.u32", "320"), "%s2": ("sshrl.u32", "%s1, 5"), "%s3": ("sand.u32", "31, %s1")}
    >>> [_of_whole_block(register, registers) for register in ("%s2", "%s3")]
    [10, 0]
    """
    if not value.startswith("%"):
        return int(value)
    operation, operands = registers[value]
    numbers = [_of_whole_block(operand.strip(), registers) for operand in operands.split(",")]
    return numbers[0] if operation == "smov.u32" else _OPERATIONS[operation](*numbers)
