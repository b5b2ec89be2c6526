"""Which formulation computes a result: the first of the rules that fits. No JAX here."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from .._errors import unsupported
from .problem import UNKNOWN, Problem
from .rule import Rule
from .rules import RULES

AUTO = "auto"


class Supports(Protocol):
    """The part of a formulation that planning needs."""

    def supports(self, problem: Problem) -> str | None:
        """None if this formulation computes the problem's result, else the reason why not."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """The formulation chosen, what runs its convolutions, and the rule that chose (None: the caller's `method` did)."""

    method: str
    engine: str
    rule: Rule | None


def choose(platform: str, engine: str, problem: Problem, method: str, methods: Mapping[str, Supports]) -> Choice:
    """The formulation for the problem on `platform` with `engine`; `method` other than 'auto' overrides the table.

    Raises NotImplementedError where that method can't do this case.
    """
    inputs, outputs = (size if isinstance(size, int) else UNKNOWN for size in (problem.inputs, problem.outputs))
    problem = dataclasses.replace(problem, inputs=inputs, outputs=outputs)
    if method != AUTO:
        if reason := methods[method].supports(problem):
            raise unsupported(method, reason)
        return Choice(method, engine, None)
    here = [{"*", *names.split()} for names in (platform, engine, problem.result)]
    for rule in RULES:
        fits = all(want in is_ for want, is_ in zip((rule.platform, rule.engine, rule.result), here, strict=True))
        if fits and methods[rule.method].supports(problem) is None and rule.when(problem):
            return Choice(rule.method, engine, rule)
    raise AssertionError("the last rule applies to everything")
