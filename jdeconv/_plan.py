"""Which formulation computes a result: one table of rules, each with its evidence. No JAX here."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Protocol

from ._problem import Problem

AUTO = "auto"


class Supports(Protocol):
    """The part of a formulation that planning needs."""

    def supports(self, problem: Problem) -> str | None:
        """None if this formulation computes the problem's result, else the reason why not."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """On `platform` ('*': any), for `result` ('*': any), where `when` holds, `method` is the best that was measured."""

    platform: str
    result: str
    when: Callable[[Problem], bool]
    method: str
    evidence: str


@dataclasses.dataclass(frozen=True)
class Choice:
    """The formulation chosen, and the rule that chose it (None: the caller's `method` did)."""

    method: str
    rule: Rule | None


def always(problem: Problem) -> bool:
    """Every problem."""
    return True


def one_channel_in(problem: Problem) -> bool:
    """Each output channel comes from one input channel, as in depthwise; one channel in all is a convolution's case."""
    return problem.inputs == 1 and (problem.groups > 1 or strided(problem))


def depthwise(problem: Problem) -> bool:
    """A group has one channel or hardly more, and the kernel can be written out tap by tap."""
    return problem.inputs * problem.outputs <= 8 and math.prod(problem.geometry.kernel) <= 64


def few_taps_to_one(problem: Problem) -> bool:
    """One output channel a group, and a kernel that can be written out tap by tap."""
    return problem.outputs == 1 and math.prod(problem.geometry.kernel) <= 32


def volume_in_one_block(problem: Problem) -> bool:
    """Three dimensions, no output being reached by two taps."""
    return problem.geometry.rank == 3 and one_block(problem)


def one_block(problem: Problem) -> bool:
    """No output is reached by two taps: kernel <= stride."""
    return problem.blocks == 1


def volume_to_few(problem: Problem) -> bool:
    """Three dimensions, to at most 4 channels."""
    return problem.geometry.rank == 3 and problem.outputs <= 4


def strided(problem: Problem) -> bool:
    """Zeros would stand between the input's positions."""
    return any(s > 1 for s in problem.geometry.strides)


def worth_phases(problem: Problem) -> bool:
    """Two taps or more reach an output, and blocks of taps need little filling or the alternative is slow anyway."""
    if problem.geometry.rank == 3:
        return strided(problem)
    large = problem.geometry.rank == 2 and (problem.inputs <= 32 or problem.blocks >= 16)
    return strided(problem) and problem.blocks > 1 and (problem.filling == 1 or problem.groups > 1 or large)


def few_blocks(problem: Problem) -> bool:
    """Few blocks of taps, hardly filled up, between many channels; in one or three dimensions between any."""
    if problem.geometry.rank == 2:
        return problem.blocks <= 4 and problem.filling <= 1.8 and problem.inputs >= 32
    return strided(problem) and problem.blocks <= 8


def few_channels_in(problem: Problem) -> bool:
    """At most 16 input channels a group, and little filling."""
    return strided(problem) and problem.inputs <= 16 and problem.filling <= 1.8


# The first rule that applies, and whose method supports the case, wins; the last one always does. Evidence: N, spatial,
# channels, kernel k, stride s: milliseconds in float32 on two cores of an AMD EPYC, medians of interleaved rounds.
RULES = (
    Rule("cpu", "output", one_channel_in, "taps", "4, 32x32, depthwise 64, k 4, s 2: 0.5; gemm 7.9, phase 57, lax 413"),
    Rule("cpu", "output", volume_to_few, "gemm", "1, 64x64x32, 64 to 1, k 3, s 2: 155; phase 637, lax 63589"),
    Rule("cpu", "output", worth_phases, "phase", "16, 16x16, 256 to 128, k 4, s 2: 102; lax 165, gemm 168"),
    Rule("cpu", "input", depthwise, "taps", "4, 32x32, depthwise 64, k 4, s 2: 1.3; gemm 9.9, lax 12, phase 27"),
    Rule("cpu", "input", few_taps_to_one, "taps", "1, 64x64x32, 64 to 1, k 3, s 2: 31; lax 157, phase 883"),
    Rule("cpu", "input", volume_in_one_block, "phase", "1, 12x12x12, 16 to 64, k 2, s 2: 0.6; lax 2.5, gemm 2.7"),
    Rule("cpu", "kernel", depthwise, "taps", "4, 32x32, depthwise 64, k 4, s 2: 5; lax 12, phase 12, gemm 13"),
    Rule("cpu", "kernel", one_block, "gemm", "4, 32x32, 512 to 256, k 2, s 2: 95; lax 358, phase 692"),
    Rule("cpu", "kernel", few_blocks, "gemm", "16, 32x32, 128 to 64, k 4, s 2: 185; lax 253, phase 509"),
    Rule("cpu", "kernel", few_channels_in, "phase", "2, 100x100, 8 to 21, k 7, s 3: 87; lax 155, gemm 353"),
    Rule(
        "*",
        "*",
        always,
        "lax",
        "the definition, and for gradients the strided convolution's; XLA's kernels are at home with it",
    ),
)


def choose(platform: str, problem: Problem, method: str, methods: Mapping[str, Supports]) -> Choice:
    """The formulation for the problem on `platform`; `method` other than 'auto' overrides the table.

    Raises NotImplementedError where that method can't do this case.
    """
    if method != AUTO:
        if reason := methods[method].supports(problem):
            raise NotImplementedError(f"method={method!r}: {reason}. Use method='auto'.")
        return Choice(method, None)
    for rule in RULES:
        applies = rule.platform in ("*", platform) and rule.result in ("*", problem.result) and rule.when(problem)
        if applies and methods[rule.method].supports(problem) is None:
            return Choice(rule.method, rule)
    raise AssertionError("the last rule applies to everything")
