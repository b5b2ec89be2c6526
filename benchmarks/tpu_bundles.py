"""Issue cycles of a Pallas kernel: the bundles of its schedule, times the trips of the loops that they are in.

The TPU's compiler gives no estimate for such a kernel, but it writes down the schedule, one instruction bundle a line
and a cycle each. Waiting for memory is not in it.
"""

import math
import re

# "0x36 LB: >> {": address, a label where a loop's body begins, a sign for each loop around it.
_BUNDLE = re.compile(r"\s*(?:0x[0-9a-f]+|0)\s+(\w\w)?\s*:\s*([> ]*)\{(.*)")
_EXIT = re.compile(r"scmp\.ge\.s32\.totalorder [^,]*, (\d+) /\* loop exit test \*/")
FILL_AND_DRAIN = 2
"""Trips of the outermost loop, over the grid, that only start the first copies and wait for the last."""


def issue_cycles(schedule: str) -> int:
    """Of the text of a schedule.

    >>> issue_cycles('''
    ...    0x1   :  { %1 = nop }
    ...    0x2 LB: > { %2 = nop }
    ...    0x3 LB: >> { %3 = nop ;; %p = scmp.ge.s32.totalorder %s254_s8, 5 /* loop exit test */ }
    ...    0x4   : > { %p = scmp.ge.s32.totalorder %s19_s19, 12 /* loop exit test */ }''')  # 1 + 10 * (2 + 5)
    71
    """
    loops: list[int] = []  # the enclosing loops' numbers, outermost first
    trips: dict[int, int] = {}
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
    return sum(number * math.prod(trips[loop] for loop in where) for where, number in bundles.items())
