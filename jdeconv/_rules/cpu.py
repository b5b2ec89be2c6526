"""CPU: what was fastest, by XLA's convolutions or oneDNN's.

Evidence: N, spatial, channels, kernel k, stride s: milliseconds in float32 on two cores of an AMD EPYC, medians of
interleaved rounds. Over 150 random geometries `auto` takes 1.2 times what the best of all methods takes (geometric
mean).
"""

from .._problem import Problem
from .rule import Rule, in_volume, one_block, strided


def from_one_channel(problem: Problem) -> bool:
    """Each output channel comes from one input channel, as in depthwise; a single one is strided or in a volume."""
    return problem.inputs == 1 and (problem.groups > 1 or strided(problem) or in_volume(problem))


def volume_to_few(problem: Problem) -> bool:
    """Three dimensions, to at most 8 channels, kernel > stride."""
    return in_volume(problem) and problem.outputs <= 8 and not one_block(problem)


def in_few_convolutions(problem: Problem) -> bool:
    """Strided; one convolution gives all phases, or at most 9 give one each: every one is compiled."""
    return strided(problem) and (problem.filling == 1 or problem.phases <= 9)


def in_few_but_small(problem: Problem) -> bool:
    """In few convolutions, but no plane's kernel of up to 3x3 between many channels."""
    small = problem.geometry.rank == 2 and max(problem.geometry.kernel) <= 3 and problem.inputs >= 64
    return in_few_convolutions(problem) and not small


def strided_volume(problem: Problem) -> bool:
    """Strided, in three dimensions."""
    return strided(problem) and in_volume(problem)


def one_or_two_channels(problem: Problem) -> bool:
    """In and out of each group: one and one, or one and two."""
    return problem.inputs * problem.outputs <= 2


def few_taps_to_one(problem: Problem) -> bool:
    """One output channel a group (2 from one or two), and a kernel that can be written out tap by tap."""
    return problem.taps <= 64 if one_or_two_channels(problem) else problem.outputs == 1 and problem.taps <= 32


def volume_in_one_block(problem: Problem) -> bool:
    """Three dimensions, kernel <= stride."""
    return in_volume(problem) and one_block(problem)


def many_depthwise(problem: Problem) -> bool:
    """One channel a group, or two, in at least 32 groups, and a kernel that can be written out tap by tap."""
    return one_or_two_channels(problem) and problem.groups >= 32 and problem.taps <= 64


def few_blocks(problem: Problem) -> bool:
    """Few blocks of taps, hardly filled up, between many channels; in one or three dimensions between any."""
    if problem.geometry.rank == 2:
        return problem.blocks <= 4 and problem.filling <= 1.8 and problem.inputs >= 32
    return strided(problem) and problem.blocks <= 8


def from_few_channels(problem: Problem) -> bool:
    """At most 16 input channels a group, and little filling."""
    return strided(problem) and problem.inputs <= 16 and problem.filling <= 1.8


RULES = (
    Rule("cpu", "*", "output", from_one_channel, "taps", "4, 32x32, depthwise 64, k 4, s 2: 0.5; gemm 7.9, lax 413"),
    Rule(
        "cpu", "onednn", "output", in_few_convolutions, "phase", "4, 32x32, 512 to 256, k 2, s 2: 27; lax 35, gemm 39"
    ),
    Rule("cpu", "xla", "output", volume_to_few, "gemm", "1, 64x64x32, 64 to 1, k 3, s 2: 155; phase 637, lax 63589"),
    Rule("cpu", "xla", "output", in_few_but_small, "phase", "16, 16x16, 256 to 128, k 4, s 2: 33; gemm 64, lax 68"),
    Rule("cpu", "*", "output", strided_volume, "gemm", "1, 16x16x16, 128 to 64, k 2, s 2: 8; lax 333"),
    Rule("cpu", "*", "input", few_taps_to_one, "taps", "1, 64x64x32, 64 to 1, k 3, s 2: 31; phase 36, lax 59"),
    Rule(
        "cpu", "xla", "input", volume_in_one_block, "phase", "1, 12x12x12, 16 to 64, k 2, s 2: 0.6; lax 2.5, gemm 2.7"
    ),
    Rule("cpu", "*", "kernel", many_depthwise, "taps", "4, 32x32, depthwise 64, k 4, s 2: 2.4; lax 3.8, gemm 9.1"),
    Rule("cpu", "*", "kernel", one_block, "gemm", "4, 32x32, 512 to 256, k 2, s 2: 32; lax 59, phase 123"),
    Rule("cpu", "xla", "kernel", few_blocks, "gemm", "16, 32x32, 128 to 64, k 4, s 2: 185; lax 253, phase 509"),
    Rule("cpu", "xla", "kernel", from_few_channels, "phase", "2, 100x100, 8 to 21, k 7, s 3: 87; lax 155, gemm 353"),
)
