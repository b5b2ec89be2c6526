"""Which formulation computes a result, and in which variant: the first row of each table that fits. No JAX here."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from .._errors import unsupported
from .engine_kind import EngineKind
from .problem import UNKNOWN, Problem
from .rule import Rule
from .rules import RULES
from .variants import VARIANTS, Variant

AUTO = "auto"


class Supports(Protocol):
    """The part of a formulation that planning needs."""

    def supports(self, problem: Problem) -> str | None:
        """None if this formulation computes the problem's result, else the reason why not."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """How a result is computed."""

    method: str
    """The formulation's name."""
    variant: str
    """Which of the formulation's ways to compute the result."""
    engine: EngineKind
    """What runs its convolutions and products."""
    rule: Rule | None
    """The row of the table that chose the method; None: the caller did."""


def choose(platform: str, engine: EngineKind, problem: Problem, method: str, methods: Mapping[str, Supports]) -> Choice:
    """The formulation for the problem on `platform` with `engine`; `method` other than 'auto' overrides the table.

    Raises NotImplementedError where that method can't do this case.
    """
    problem, rule = _in_numbers(problem), None
    if method == AUTO:
        rule = next(
            rule
            for rule in RULES
            if _fits(rule, platform, engine, problem)
            and methods[rule.method].supports(problem) is None
            and rule.when(problem)
        )
        method = rule.method
    else:
        check_method(problem, method, methods)
    variant = next(
        row.name
        for row in VARIANTS
        if method in row.method.split() and _fits(row, platform, engine, problem) and row.when(problem)
    )
    return Choice(method, variant, engine, rule)


def check_method(problem: Problem, method: str, methods: Mapping[str, Supports]) -> None:
    """Raises NotImplementedError where this method can't do this case; 'auto' can do all."""
    if method != AUTO and (reason := methods[method].supports(_in_numbers(problem))):
        raise unsupported(method, reason)


def _in_numbers(problem: Problem) -> Problem:
    """The problem with `UNKNOWN` for numbers of channels that are not known."""
    inputs, outputs = (size if isinstance(size, int) else UNKNOWN for size in (problem.inputs, problem.outputs))
    return dataclasses.replace(problem, inputs=inputs, outputs=outputs)


def _fits(row: Rule | Variant, platform: str, engine: EngineKind, problem: Problem) -> bool:
    """Whether a row's platforms, engine and results, '*' being any, are those of the problem."""
    asked = ((row.platform, (platform,)), (row.engine, engine.words), (row.result, (problem.result,)))
    return all(words == "*" or not {*words.split()}.isdisjoint(given) for words, given in asked)
