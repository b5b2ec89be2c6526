"""Chooses a result's formulation and variant: in each table, the first row that fits. No JAX here."""

import dataclasses
from collections.abc import Mapping

from .._errors import unsupported
from .engine_kind import EngineKind
from .method_table import RULES
from .problem import UNKNOWN, Problem, Supports
from .rule import Rule
from .variant_table import VARIANT_RULES, VariantRule

AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Choice:
    """How a result is computed."""

    method: str
    """The formulation's name."""
    variant: str
    """The name of a way to compute the result, in the formulation's `VARIANTS`."""
    engine: EngineKind
    """What runs its convolutions and products."""
    rule: Rule | None
    """The row that chose the method; None if the caller chose it."""


def choose(platform: str, engine: EngineKind, problem: Problem, method: str, methods: Mapping[str, Supports]) -> Choice:
    """The formulation for the problem on `platform` with `engine`; a `method` other than 'auto' overrides the table.

    Raises NotImplementedError where that method can't do this case.
    """
    problem, rule = _in_numbers(problem), None
    if method == AUTO:
        rule = next(
            rule
            for rule in RULES
            if fits(rule, platform, engine, problem)
            and methods[rule.method].supports(problem) is None
            and rule.when(problem)
        )
        method = rule.method
    else:
        check_method(problem, method, methods)
    variant = next(
        row.name
        for row in VARIANT_RULES
        if method in row.method.split() and fits(row, platform, engine, problem) and row.when(problem)
    )
    return Choice(method, variant, engine, rule)


def check_method(problem: Problem, method: str, methods: Mapping[str, Supports]) -> None:
    """Raises NotImplementedError if the named method can't do this case."""
    if reason := methods[method].supports(_in_numbers(problem)):
        raise unsupported(method, reason)


def _in_numbers(problem: Problem) -> Problem:
    """The problem with unknown numbers of channels replaced by `UNKNOWN`."""
    inputs, outputs = (size if isinstance(size, int) else UNKNOWN for size in (problem.inputs, problem.outputs))
    return dataclasses.replace(problem, inputs=inputs, outputs=outputs)


def fits(row: Rule | VariantRule, platform: str, engine: EngineKind, problem: Problem) -> bool:
    """Whether the row's platforms, engines and results include the given ones; '*' includes all."""
    asked = ((row.platform, (platform,)), (row.engine, engine.words), (row.result, (problem.result,)))
    return all(words == "*" or not {*words.split()}.isdisjoint(given) for words, given in asked)
