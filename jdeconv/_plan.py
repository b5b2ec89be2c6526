"""Which formulation computes a result: one table of rules, each with its evidence. No JAX here."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

from ._geometry import Geometry

AUTO = "auto"


class Supports(Protocol):
    """The part of a formulation that planning needs."""

    def supports(self, geometry: Geometry, result: str) -> str | None:
        """None if this formulation computes `result`, else the reason why not."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """On `platform` ('*': any), for `result` ('*': any), where `when` holds, `method` is the best that was measured."""

    platform: str
    result: str
    when: Callable[[Geometry], bool]
    method: str
    evidence: str


@dataclasses.dataclass(frozen=True)
class Choice:
    """The formulation chosen, and the rule that chose it (None: the caller's `method` did)."""

    method: str
    rule: Rule | None


def always(geometry: Geometry) -> bool:
    """Every geometry."""
    return True


# The first rule that applies, and whose method supports the case, wins; the last one always does.
RULES = (
    Rule(
        "*",
        "*",
        always,
        "lax",
        "the definition; a training step on CPU 10 times ahead of lax.conv_transpose (median of benchmarks)",
    ),
)


def choose(platform: str, geometry: Geometry, result: str, method: str, methods: Mapping[str, Supports]) -> Choice:
    """The formulation for `result` on `platform`; `method` other than 'auto' overrides the table.

    Raises NotImplementedError where that method can't do this case.
    """
    if method != AUTO:
        if reason := methods[method].supports(geometry, result):
            raise NotImplementedError(f"method={method!r}: {reason}. Use method='auto'.")
        return Choice(method, None)
    for rule in RULES:
        applies = rule.platform in ("*", platform) and rule.result in ("*", result) and rule.when(geometry)
        if applies and methods[rule.method].supports(geometry, result) is None:
            return Choice(rule.method, rule)
    raise AssertionError("the last rule applies to everything")
