"""What was measured: for each operation on a device, the candidates' times and the best of them. No JAX here."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from .choose import Choice
from .problem import Problem

DEFAULT = "default"
"""The precision of an operation that asks for none."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """A problem, with all else that decides how long it takes: types, and the precision asked for."""

    problem: Problem
    operands: str
    """The dtype of both operands."""
    dtype: str
    """The result's dtype."""
    precision: str = DEFAULT

    def __str__(self) -> str:
        p, g = self.problem, self.problem.geometry
        groups = f" in {p.groups} groups" if p.groups > 1 else ""
        channels = f"{p.groups * p.inputs} to {p.groups * p.outputs}{groups}"
        steps = f"k {_by(g.kernel)}, s {_by(g.strides)}"
        steps += f", d {_by(g.dilations)}" if max(g.dilations, default=1) > 1 else ""
        types = self.operands if self.operands == self.dtype else f"{self.operands} to {self.dtype}"
        types += "" if self.precision == DEFAULT else f", {self.precision}"
        return f"{p.result} {p.batch}, {_by(g.input)} to {_by(g.output)}, {channels}, {steps}, {types}"


@dataclasses.dataclass(frozen=True)
class Timing:
    """One candidate: its median time, or why it has none."""

    choice: Choice
    ms: float | None
    reason: str | None = None
    """Why it was not timed to the end; None where it was."""

    def __str__(self) -> str:
        ms = None if self.ms is None else milliseconds(self.ms)
        return f"{named(self.choice)} {' '.join(filter(None, (ms, self.reason and f'({self.reason})')))}"


@dataclasses.dataclass(frozen=True)
class Measured:
    """What chose a method by its time, in the place of a row of the table."""

    method: str
    evidence: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """What was measured of an operation: the candidates' times on a device, with a version of jaxlib."""

    device: str
    jaxlib: str
    operation: Operation
    default: Choice
    """The table's choice at that time."""
    best: Choice
    """The choice from now on: the table's, unless another one was faster beyond doubt."""
    timings: tuple[Timing, ...]

    @property
    def key(self) -> "Key":
        """What a look-up asks for."""
        return self.device, self.jaxlib, self.operation

    @functools.cached_property
    def choice(self) -> Choice:
        """The best one, with its time and the default's as the reason."""
        others = [timing for timing in self.timings if timing.choice != self.best and timing.ms is not None]
        nearest = sorted(others, key=lambda timing: timing.ms or math.inf)[:3]
        times = "; ".join([milliseconds(self.ms(self.best)), *map(str, nearest)])
        reason = Measured(self.best.method, f"tuning, measured on {self.device}: {self.operation}: {times}")
        return dataclasses.replace(self.best, rule=reason)

    def ms(self, choice: Choice) -> float | None:
        """The choice's time; None if it has none."""
        return next((timing.ms for timing in self.timings if timing.choice == choice), None)

    @property
    def gain(self) -> float | None:
        """The default's time over the best one's; None where one of the two has no time."""
        default, best = self.ms(self.default), self.ms(self.best)
        return default / best if default and best else None


Key: TypeAlias = tuple[str, str, Operation]


class Measurements:
    """Entries by device, version of jaxlib and operation. Equal if they choose alike, whatever the times."""

    def __init__(self, entries: Iterable[Entry] = (), left_out: Iterable[str] = ()) -> None:
        self._entries: Mapping[Key, Entry] = {entry.key: entry for entry in entries}
        self._left_out = tuple(dict.fromkeys(left_out))
        self._choices = {key: entry.choice for key, entry in self._entries.items()}
        self._hash = hash(frozenset((key, entry.best) for key, entry in self._entries.items()))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries, in the order in which they were measured."""
        return tuple(self._entries.values())

    @property
    def left_out(self) -> tuple[str, ...]:
        """The operators that were found and not timed, each with the reason."""
        return self._left_out

    @property
    def gain(self) -> float:
        """The total of the defaults' times over the total of the best ones', each distinct operation counted once."""
        timed = [entry for entry in self.entries if entry.gain is not None]
        default, best = (sum(entry.ms(choice(entry)) or 0 for entry in timed) for choice in (_default_of, _best_of))
        return default / best if timed else 1.0

    def find(self, device: str, jaxlib: str, operation: Operation) -> Choice | None:
        """The choice that was measured to be the best there; None if nothing was."""
        return self._choices.get((device, jaxlib, operation))

    def foreign(self, devices: Iterable[str], jaxlib: str) -> list[Entry]:
        """Entries that were measured on another device or with another jaxlib than these."""
        here = {*devices}
        return [entry for entry in self.entries if entry.device not in here or entry.jaxlib != jaxlib]

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Measurements):
            return NotImplemented
        return self._hash == other._hash and _bests(self) == _bests(other)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def named(choice: Choice) -> str:
    """A choice in a few words.

    >>> from jdeconv._plan.engine_kind import XLA
    >>> named(Choice("gemm", "blocks", XLA, None))
    'gemm: blocks'
    """
    words = f"{choice.method}: {choice.variant}"
    return f"{words} ({choice.engine})" if choice.engine.onednn else words


def milliseconds(ms: float | None) -> str:
    """A time with three digits.

    >>> milliseconds(12.345)
    '12.3 ms'
    """
    return "? ms" if ms is None else f"{ms:.3g} ms"


def _by(sizes: tuple[object, ...]) -> str:
    return "x".join(map(str, sizes))


def _default_of(entry: Entry) -> Choice:
    return entry.default


def _best_of(entry: Entry) -> Choice:
    return entry.best


def _bests(measurements: Measurements) -> dict[Key, Choice]:
    return {entry.key: entry.best for entry in measurements.entries}


def _lines(measurements: Measurements) -> Iterator[str]:
    """The table: for each machine its operations, each with a line of all candidates; then what was left out."""
    machines = dict.fromkeys((entry.device, entry.jaxlib) for entry in measurements.entries)
    for device, jaxlib in machines:
        here = [entry for entry in measurements.entries if (entry.device, entry.jaxlib) == (device, jaxlib)]
        yield f"{device}, jaxlib {jaxlib}: {len(here)} operations, gain {Measurements(here).gain:.3g}"
        head = ("operation", "default", "", "best", "", "gain")
        rows = [
            (
                str(entry.operation),
                named(entry.default),
                milliseconds(entry.ms(entry.default)),
                named(entry.best),
                milliseconds(entry.ms(entry.best)),
                "?" if entry.gain is None else f"{entry.gain:.2f}",
            )
            for entry in here
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        yield "  ".join(map(str.ljust, head, widths)).rstrip()
        for row, entry in zip(rows, here, strict=True):
            yield "  ".join(map(str.ljust, row, widths)).rstrip()
            yield f"  candidates: {'; '.join(map(str, entry.timings))}"
    if not machines:
        yield "no operations"
    yield from (f"left out: {text}" for text in measurements.left_out)
