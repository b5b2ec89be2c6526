"""One row of the table, and the predicates that the platforms share. No JAX here."""

import dataclasses
from collections.abc import Callable

from .problem import Problem


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where `when` holds, `method` was measured to be the best for platform, engine and result ('*': any)."""

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
    """Strides above 1: the definition puts zeros between the input's positions."""
    return any(s > 1 for s in problem.geometry.strides)


def dilated(problem: Problem) -> bool:
    """Dilations above 1: two neighbouring taps reach outputs that are not neighbours."""
    return any(d > 1 for d in problem.geometry.dilations)


def no_overlap(problem: Problem) -> bool:
    """Kernel <= stride: no output is reached by two taps."""
    return problem.block_count == 1


def in_volume(problem: Problem) -> bool:
    """Three dimensions."""
    return problem.geometry.rank == 3
