"""Every way that may compute a problem on a platform: what measuring has to choose from. No JAX here."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from .choose import AUTO, Choice, choose, fits
from .engine_kind import XLA, EngineKind
from .problem import Problem, Supports
from .rule import strided
from .variant_table import VARIANT_RULES, blocks_not_full, one_block, one_position

MOST_WRITTEN_OUT = 512
"""The most operations of a candidate's program: so many compile in seconds."""
MOST_FUSED = 32
"""The most products that XLA GPU fuses with their windows in seconds."""
MOST_ELEMENTS = 2**28
"""The most elements of a matrix of patches, or of products of all taps: 1 GiB in float32."""

# Where a variant computes the result. Others compute it everywhere, and the table prefers one of them by its speed.
_VALID = {
    "one position": one_position,
    "one block": one_block,
    "fused": lambda problem: problem.result == "kernel" or not blocks_not_full(problem),
}


def candidates(
    platform: str, engines: Sequence[EngineKind], problem: Problem, methods: Mapping[str, Supports]
) -> tuple[Choice, ...]:
    """The ways to compute the problem on `platform`: method 'lax' first, the table's own choice among them.

    Left out are ways that are wrong with infinite operands, that compile for minutes, or whose patches fill the memory.

    Args:
      engines: what may run the program, the table's engine first: on a CPU with oneDNN its kind and `XLA`, else `XLA`.
    """
    lax = choose(platform, XLA if XLA in engines else engines[0], problem, "lax", methods)
    default = choose(platform, engines[0], problem, AUTO, methods)
    default = Choice(default.method, default.variant, default.engine, None)
    found = (
        Choice(method, variant, engine, None)
        for number, engine in enumerate(engines)
        for method, variant in _ways(platform, engine, problem, methods)
        if number == 0 or calls_engine(method, variant, problem)
    )
    return tuple(dict.fromkeys((lax, *found, default)))


def calls_engine(method: str, variant: str, problem: Problem) -> bool:
    """Whether the engine makes a difference: it runs convolutions, and one product of groups."""
    if method == "gemm":
        return problem.groups > 1 and problem.result == "output" and variant != "phases, positions last"
    return method != "taps"


def _ways(
    platform: str, engine: EngineKind, problem: Problem, methods: Mapping[str, Supports]
) -> Iterator[tuple[str, str]]:
    """Methods that support the problem, with the variants that the second table names for platform and engine."""
    for method, row in itertools.product(methods, VARIANT_RULES):
        named = method in row.method.split() and fits(row, platform, engine, problem)
        if named and not _left_out(platform, problem, method, row.name) and methods[method].supports(problem) is None:
            yield method, row.name


def _left_out(platform: str, problem: Problem, method: str, variant: str) -> bool:
    """Whether this way is wrong, costly, or another one's program."""
    if method == "pallas" and (problem.result != "output" or platform not in ("gpu", "tpu") or variant == "none"):
        return True  # gradients are those of 'lax', and kernels are for GPUs and TPUs
    if method == "phase" and not strided(problem):
        return True  # the program of 'lax'
    return not (is_valid(variant, problem) and _fits_in(platform, problem, method, variant))


def is_valid(variant: str, problem: Problem) -> bool:
    """Whether the variant computes this problem, with infinite operands too."""
    first = variant.partition(",")[0]
    return first not in _VALID or _VALID[first](problem)


def _fits_in(platform: str, problem: Problem, method: str, variant: str) -> bool:
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
        terms = {"output": problem.inputs, "input": problem.outputs, "kernel": 1}[problem.result]
        return terms * (problem.taps if problem.result == "input" else problem.block_count)
    if variant.startswith("apart"):
        return problem.phase_count * min(problem.groups, 32)
    if method != "gemm" or variant.startswith("one"):
        return 1
    by_taps = variant.startswith(("phases", "patches")) or blocks_not_full(problem)
    return problem.taps if by_taps else math.prod(problem.geometry.blocks)
