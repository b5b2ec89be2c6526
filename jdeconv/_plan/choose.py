"""Chooses a result's formulation and variant: a measured choice, else in each table the first row that fits. No JAX."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from .._errors import unsupported
from .engine_kind import XLA, EngineKind
from .method_table import RULES
from .problem import UNKNOWN, Problem, Supports
from .variant_table import VARIANT_RULES
from .ways import calls_engine, fits, is_way

AUTO = "auto"


class Reason(Protocol):
    """What chose a method: a row of the table, or a measurement."""

    @property
    def method(self) -> str: ...

    @property
    def evidence(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class Choice:
    """How a result is computed."""

    method: str
    """The formulation's name."""
    variant: str
    """The name of a way to compute the result, in the formulation's `VARIANTS`."""
    engine: EngineKind
    """What runs its convolutions and products."""
    rule: Reason | None
    """The row or the measurement that chose the method; None if the caller chose it."""


def choose(
    platform: str,
    engine: EngineKind,
    problem: Problem,
    method: str,
    methods: Mapping[str, Supports],
    measured: Sequence[Choice] = (),
) -> Choice:
    """The formulation for the problem on `platform` with `engine`; a `method` other than 'auto' overrides the table.

    So does the first of the `measured` choices that is still possible. Raises NotImplementedError where the method
    asked for can't do this case.
    """
    problem, rule = _in_numbers(problem), None
    if method == AUTO:
        for choice in measured:
            if (possible := _possible(choice, platform, engine, problem, methods)) is not None:
                return possible
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


def _possible(
    choice: Choice, platform: str, engine: EngineKind, problem: Problem, methods: Mapping[str, Supports]
) -> Choice | None:
    """A measured choice, with an engine that is there; None if this library or this program has no such way."""
    if choice.engine not in (XLA, engine):
        if calls_engine(choice.method, choice.variant, problem):
            return None
        choice = dataclasses.replace(choice, engine=engine)
    known = is_way(platform, choice.engine, problem, choice.method, choice.variant, methods)
    return choice if known else None


def check_method(problem: Problem, method: str, methods: Mapping[str, Supports]) -> None:
    """Raises NotImplementedError if the named method can't do this case."""
    if reason := methods[method].supports(_in_numbers(problem)):
        raise unsupported(method, reason)


def _in_numbers(problem: Problem) -> Problem:
    """The problem with unknown numbers of channels replaced by `UNKNOWN`."""
    if isinstance(problem.inputs, int) and isinstance(problem.outputs, int):
        return problem
    inputs, outputs = (size if isinstance(size, int) else UNKNOWN for size in (problem.inputs, problem.outputs))
    return dataclasses.replace(problem, inputs=inputs, outputs=outputs)
