"""One row of the table, and the predicates that the platforms share. No JAX here."""

import dataclasses
from collections.abc import Callable

from .problem import Problem


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where `when` holds, `method` is the best that was measured for the first three ('*': any)."""

    platform: str
    engine: str
    result: str
    when: Callable[[Problem], bool]
    method: str
    evidence: str


def always(problem: Problem) -> bool:
    """Every problem."""
    return True


def strided(problem: Problem) -> bool:
    """Zeros would stand between the input's positions."""
    return any(s > 1 for s in problem.geometry.strides)


def dilated(problem: Problem) -> bool:
    """Outputs that no tap reaches stand between those that two neighbours reach."""
    return any(d > 1 for d in problem.geometry.dilations)


def no_overlap(problem: Problem) -> bool:
    """No output is reached by two taps: kernel <= stride."""
    return problem.block_count == 1


def in_volume(problem: Problem) -> bool:
    """Three dimensions."""
    return problem.geometry.rank == 3
