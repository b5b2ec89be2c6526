"""How well the planner's rules do on a file of times: what `auto` takes over the best candidate. Nothing is timed."""

import collections
import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from unittest import mock

from jdeconv._formulations import METHODS
from jdeconv._plan import choose as planner
from jdeconv._plan.choose import AUTO, Choice, choose
from jdeconv._plan.engine_kind import XLA
from jdeconv._plan.method_table import RULES

from ..report import number, table
from .problems import Item
from .timing import key
from .timings import Timings

BAD, LOST = 1.5, 1.05
"""A regret that is counted, and how many times lax's time count as a loss to it."""
EARNED = 1.01
"""A rule whose removal costs less than this, as a mean over its problems in every file, is idle."""
WORST = 20


@dataclasses.dataclass(frozen=True)
class Finding:
    """One problem in one file: what the table chose, and what it took."""

    item: Item
    choice: Choice
    ms: float
    best: str
    best_ms: float
    lax_ms: float | None
    without_ms: float | None
    """By the table without the row that chose; None for the last row, or where that choice was not timed."""

    @property
    def regret(self) -> float:
        """`auto`'s time over the best candidate's."""
        return self.ms / self.best_ms

    @property
    def over_lax(self) -> float | None:
        """`auto`'s time over lax's; None where lax was not timed."""
        return self.lax_ms and self.ms / self.lax_ms


@dataclasses.dataclass(frozen=True)
class Findings:
    """What the table does on one file."""

    name: str
    rows: list[Finding]
    untimed: list[str]
    """Problems of the file whose choice is not among its candidates: time them anew."""

    @property
    def figures(self) -> dict[str, float]:
        """What limits may be set for."""
        lost = sum((row.over_lax or 0) > LOST for row in self.rows)
        return {
            "mean regret": _mean(self.rows),
            "mean regret held out": _mean(row for row in self.rows if row.item.held_out),
            f"above {LOST} times lax": lost,
            "not timed": len(self.untimed),
        }


def _mean(rows: Iterable[Finding]) -> float:
    """The mean regret; of nothing 1."""
    return statistics.fmean([row.regret for row in rows] or [1])


def found(name: str, timings: Timings, items: Iterable[Item]) -> Findings:
    """The table's choices for the problems that the file has."""
    rows, untimed = [], []
    for item in items:
        if not timings.has(item):
            continue
        times = timings.times(item)
        choice = _chosen(timings, item)
        if key(choice) not in times:
            untimed.append(f"{item.name}: {key(choice)}")
            continue
        best = min(times, key=times.__getitem__)
        lax = key(choose("cpu", XLA, item.problem, "lax", METHODS))
        without = _without(choice, timings, item)
        without_ms = None if without is None else times.get(key(without))
        rows.append(Finding(item, choice, times[key(choice)], best, times[best], times.get(lax), without_ms))
    return Findings(name, rows, untimed)


def _chosen(timings: Timings, item: Item) -> Choice:
    return choose("cpu", timings.engine(item.problem.dtype), item.problem, AUTO, METHODS)


def _without(choice: Choice, timings: Timings, item: Item) -> Choice | None:
    """The choice of the table without the row that chose; None for the last row, which always applies."""
    rules = [rule for rule in RULES if rule is not choice.rule]
    if choice.rule is RULES[-1]:
        return None
    with mock.patch.object(planner, "RULES", tuple(rules)):
        return _chosen(timings, item)


# The report.

HEADS = ("problems", "mean regret", f"above {BAD}", "largest", f"above {LOST} times lax")


def markdown(files: Sequence[Findings]) -> str:
    """All tables."""
    parts = [
        "## Regret: auto's time over the best candidate's",
        _overall(files),
        *(f"## Rows of the table: {file.name}\n\n{_by_row(file)}" for file in files),
        "## Idle rows",
        _idle(files),
        *(f"## The worst {WORST}: {file.name}\n\n{_worst(file)}" for file in files),
        *(f"## Above {LOST} times lax: {file.name}\n\n{_lost(file)}" for file in files),
    ]
    return "\n\n".join(parts)


def _overall(files: Sequence[Findings]) -> str:
    parts: Mapping[str, Callable[[Finding], bool]] = {
        "all": lambda row: True,
        "held out": lambda row: row.item.held_out,
        "not held out": lambda row: not row.item.held_out,
        "output": lambda row: row.item.problem.result == "output",
        "input": lambda row: row.item.problem.result == "input",
        "kernel": lambda row: row.item.problem.result == "kernel",
    }
    lines = []
    for file in files:
        groups = {title: [row for row in file.rows if has(row)] for title, has in parts.items()}
        for row in file.rows:
            groups.setdefault(row.item.operands, []).append(row)
        lines += [(f"{file.name}: {title}", *_figures(rows)) for title, rows in groups.items() if rows]
        if file.untimed:
            lines.append((f"{file.name}: choice not timed", str(len(file.untimed)), *[""] * (len(HEADS) - 1)))
    return table(("file", *HEADS), lines)


def _figures(rows: Sequence[Finding]) -> tuple[str, ...]:
    regrets = [row.regret for row in rows]
    bad = sum(regret > BAD for regret in regrets)
    lost = sum((row.over_lax or 0) > LOST for row in rows)
    return str(len(rows)), f"{_mean(rows):.3f}", f"{bad} ({bad / len(rows):.0%})", f"{max(regrets):.2f}", str(lost)


def _by_row(file: Findings) -> str:
    groups: dict[int, list[Finding]] = collections.defaultdict(list)
    for row in file.rows:
        groups[_position(row.choice.rule)].append(row)
    lines = []
    for position, rows in sorted(groups.items()):
        cost = _cost(rows)
        lines.append((_described(position), *_figures(rows), "-" if cost is None else f"{cost:.3f}"))
    return table(("row", *HEADS, "time without the row"), lines)


def _position(rule: Any) -> int:
    """The row's number in the table, from 1."""
    return next(position for position, row in enumerate(RULES, 1) if row is rule)


def _described(position: int) -> str:
    rule = RULES[position - 1]
    evidence = rule.evidence if len(rule.evidence) <= 60 else rule.evidence[:57] + "..."
    return f"{position} {rule.method}: {evidence}"


def _cost(rows: Iterable[Finding]) -> float | None:
    """The time without the row over the time with it: the mean over its problems; None if nothing is known."""
    costs = [row.without_ms / row.ms for row in rows if row.without_ms is not None]
    return statistics.fmean(costs) if costs else None


def _idle(files: Sequence[Findings]) -> str:
    """The CPU's rows that the files do not justify."""
    lines = []
    for position, rule in enumerate(RULES[:-1], 1):
        if rule.platform != "*" and "cpu" not in rule.platform.split():
            continue
        chosen = [[row for row in file.rows if row.choice.rule is rule] for file in files]
        costs = [cost for rows in chosen if (cost := _cost(rows)) is not None]
        if not any(chosen):
            lines.append((_described(position), "chose nothing"))
        elif not costs:
            lines.append((_described(position), "the choice without it was not timed"))
        elif max(costs) < EARNED:
            lines.append((_described(position), f"its removal costs at most {max(costs):.3f}"))
    return table(("row", "why"), lines) if lines else "None."


def _worst(file: Findings) -> str:
    worst = sorted(file.rows, key=lambda row: -row.regret)[:WORST]
    return table(_COMPARED, [_compared(row, row.best, row.best_ms) for row in worst])


def _lost(file: Findings) -> str:
    lost = sorted((row for row in file.rows if (row.over_lax or 0) > LOST), key=lambda row: -(row.over_lax or 0))
    return table(_COMPARED, [_compared(row, "lax", row.lax_ms or 0) for row in lost]) if lost else "None."


_COMPARED = ("problem", "row", "auto", "ms", "other", "ms", "ratio")


def _compared(row: Finding, other: str, other_ms: float) -> tuple[str, ...]:
    name = row.item.name + (" (held out)" if row.item.held_out else "")
    position = str(_position(row.choice.rule))
    return name, position, key(row.choice), number(row.ms), other, number(other_ms), f"{row.ms / other_ms:.2f}"


# The check.


def excesses(files: Sequence[Findings], limits: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Where a file's figures exceed the limits committed for it, and files and limits that lack one another."""
    wrong = [f"{name}: limits, but no file of this name" for name in limits.keys() - {file.name for file in files}]
    for file in files:
        if not (limit := limits.get(file.name)):
            wrong.append(f"{file.name}: no limits; expected some of {list(file.figures)} in limits.json")
            continue
        figures = file.figures
        for title, most in limit.items():
            if figures[title] > most:
                named = f" ({', '.join(file.untimed[:3])})" if title == "not timed" else ""
                wrong.append(f"{file.name}: {title} {figures[title]:.4g}; expected at most {most}{named}")
    return wrong
