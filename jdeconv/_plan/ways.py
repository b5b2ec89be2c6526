"""Which ways may compute a problem: the methods' variants that are right, and that compile and run in bounds. No JAX.

The tables prefer one way by its speed. Here is what measuring may choose from, and whether a measured choice still
holds.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping

from .engine_kind import EngineKind
from .features import strided
from .problem import Problem, Supports
from .rule import Rule
from .variant_table import VARIANT_RULES, VariantRule, blocks_not_full, one_block, one_position

MOST_WRITTEN_OUT = 512
"""The most operations of a program: so many compile in seconds."""
MOST_FUSED = 32
"""The most products that XLA GPU fuses with their windows in seconds."""
MOST_ELEMENTS = 2**28
"""The most elements of a matrix of patches, or of products of all taps: 1 GiB in float32."""

# Where a variant computes the result, infinite operands included. Other variants do everywhere.
_VALID = {
    "one position": one_position,
    "one block": one_block,
    "in turns": lambda problem: problem.known_sizes and problem.terms_by_taps,
    "fused": lambda problem: problem.result == "kernel" or not blocks_not_full(problem),
}


def fits(row: Rule | VariantRule, platform: str, engine: EngineKind, problem: Problem) -> bool:
    """Whether the row's platforms, engines and results include the given ones; '*' includes all."""
    return (
        _include(row.platform, (platform,))
        and _include(row.result, (problem.result,))
        and _include(row.engine, engine.words)
    )


@functools.lru_cache(maxsize=1024)  # a plan asks this of a hundred rows
def _include(words: str, given: tuple[str, ...]) -> bool:
    return words == "*" or not {*words.split()}.isdisjoint(given)


def ways(
    platform: str, engine: EngineKind, problem: Problem, methods: Mapping[str, Supports]
) -> Iterator[tuple[str, str]]:
    """Each method and variant that may compute the problem."""
    for method, row in itertools.product(methods, VARIANT_RULES):
        if method in row.method.split() and is_way(platform, engine, problem, method, row.name, methods):
            yield method, row.name


def is_way(
    platform: str, engine: EngineKind, problem: Problem, method: str, variant: str, methods: Mapping[str, Supports]
) -> bool:
    """Whether the method's variant may compute the problem: the second table names it for platform and engine, it is
    right, and it costs neither minutes to compile nor all memory."""
    named = any(
        row.name == variant and method in row.method.split() and fits(row, platform, engine, problem)
        for row in VARIANT_RULES
    )
    if not named or method not in methods or _left_out(platform, problem, method, variant):
        return False
    return methods[method].supports(problem) is None


def calls_engine(method: str, variant: str, problem: Problem) -> bool:
    """Whether the engine makes a difference: it runs convolutions, and one product of groups."""
    if method == "gemm":
        return problem.groups > 1 and problem.result == "output" and variant != "phases, positions last"
    return method != "taps"


def _left_out(platform: str, problem: Problem, method: str, variant: str) -> bool:
    """Whether this way is wrong, costly, or another one's program."""
    if method == "pallas" and (problem.result != "output" or platform not in ("gpu", "tpu") or variant == "none"):
        return True  # gradients are those of 'lax', and kernels are for GPUs and TPUs
    if method == "phase" and not strided(problem):
        return True  # the program of 'lax'
    first = variant.partition(",")[0]
    return (first in _VALID and not _VALID[first](problem)) or not _in_bounds(platform, problem, method, variant)


def _in_bounds(platform: str, problem: Problem, method: str, variant: str) -> bool:
    """Whether the program compiles in seconds, and its patches or products fit in memory."""
    most = MOST_FUSED if platform == "gpu" and (method, variant) == ("gemm", "windows") else MOST_WRITTEN_OUT
    if _written_out(problem, method, variant) > most:
        return False
    if method != "gemm" or variant == "windows":
        return True
    elements = problem.taps * problem.groups * problem.outputs * problem.batch * (problem.input_positions or 1)
    return not isinstance(elements, int) or elements <= MOST_ELEMENTS


def _written_out(problem: Problem, method: str, variant: str) -> int:
    """About how many operations the variant writes out one by one."""
    if method == "taps":
        return 1 if variant == "in turns" else problem.terms
    if variant.startswith("apart"):
        return problem.phase_count * min(problem.groups, 32)
    if method != "gemm" or variant.startswith("one"):
        return 1
    by_taps = variant.startswith(("phases", "patches")) or blocks_not_full(problem)
    return problem.taps if by_taps else problem.block_count
