"""Rows of the table of methods: ranges of a problem's features, and the method where all hold. No JAX here."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

from .features import FEATURES, Feature, Value, computed
from .problem import Problem


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included, and the words for them; without words a fact: 1 holds, 0 not."""

    low: float
    high: float
    words: str = ""

    def includes(self, value: Any) -> bool:
        return bool(self.low <= value <= self.high)

    def text(self, feature: Feature) -> str:
        if not self.words:
            return feature.one if self.low else feature.many
        return f"{self.words} {feature.one if self.words.endswith('one') else feature.many}"


@dataclasses.dataclass(frozen=True)
class Words:
    """The values named, or all others."""

    names: tuple[Value, ...]
    others: bool = False

    def includes(self, value: Value) -> bool:
        return (value in self.names) != self.others

    def text(self, feature: Feature) -> str:
        *most, last = map(str, self.names)
        words = f"{', '.join(most)} or {last}" if most else last
        return f"{'not ' * self.others}{words} {feature.many}".rstrip()


def at_least(number: float) -> Range:
    """An unknown size is included."""
    return Range(number, math.inf, f"{_digits(number)} or more")


def at_most(number: float) -> Range:
    return Range(-math.inf, number, f"at most {_digits(number)}")


def above(number: float) -> Range:
    """An unknown size is included."""
    return Range(math.nextafter(number, math.inf), math.inf, f"more than {_digits(number)}")


def below(number: float) -> Range:
    return Range(-math.inf, math.nextafter(number, -math.inf), f"fewer than {_digits(number)}")


def between(low: float, high: float) -> Range:
    """Both included."""
    return Range(low, high, f"{_digits(low)} to {_digits(high)}")


def other_than(*names: Value) -> Words:
    return Words(names, others=True)


def _digits(number: float) -> str:
    return "one" if number == 1 else f"{number / 1e6:g} million" if number >= 1e6 else f"{number:g}"


def _ranges(given: Mapping[str, Any]) -> dict[str, Range | Words]:
    return {name: _range(each) for name, each in given.items() if name != "either"}


def _range(given: Any) -> Range | Words:
    if isinstance(given, Range | Words):
        return given
    if isinstance(given, str | tuple):
        return Words(given if isinstance(given, tuple) else (given,))
    return Range(given, given, "" if isinstance(given, bool) else _digits(given))


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """Where all ranges hold, `method` was measured to be the best for platform, engine and result ('*': any).

    `where` maps a feature's name to a range, a number, True or False, a word, or several words of which one must be
    the feature's. Its key `either` has several such mappings, of which one must hold.
    """

    platform: str
    engine: str
    result: str
    where: Mapping[str, Any]
    method: str
    evidence: str

    @functools.cached_property
    def common(self) -> dict[str, Range | Words]:
        """The ranges that must all hold."""
        return _ranges(self.where)

    @functools.cached_property
    def alternatives(self) -> tuple[dict[str, Range | Words], ...]:
        """Further ranges; all of one of these must hold, if there are any."""
        return tuple(map(_ranges, self.where.get("either", ())))

    def when(self, problem: Problem) -> bool:
        """Whether the row's ranges hold the problem's features."""
        if not _hold(self.common, problem):
            return False
        return not self.alternatives or any(_hold(each, problem) for each in self.alternatives)

    @property
    def text(self) -> str:
        """Where the row holds, in words."""
        common, *alternatives = (
            ", ".join(each.text(FEATURES[name]) for name, each in ranges.items())
            for ranges in (self.common, *self.alternatives)
        )
        if not alternatives:
            return common or "every problem"
        return f"{common}: {'; or '.join(alternatives)}" if common else f"either {'; or '.join(alternatives)}"


def _hold(ranges: Mapping[str, Range | Words], problem: Problem) -> bool:
    for name, each in ranges.items():  # noqa: SIM110  `all` of a generator takes twice the time
        if not each.includes(computed(name, problem)):
            return False
    return True
