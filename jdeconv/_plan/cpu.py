"""CPU: what was measured to be fastest, by XLA's convolutions or oneDNN's.

Evidence: N, spatial, channels, kernel k, stride s: milliseconds in float32 on two cores of an AMD EPYC, the least or
the median of interleaved runs, over 24 cases of networks and 260 random geometries (`benchmarks/work`). A row that
names an engine was measured with that engine; a figure from another engine says so. Rows that name bfloat16, and
oneDNN's kernel gradients, were measured on an Intel Xeon with AMX as well; rows that name amx, there alone.
"""

from .cpu_dtypes import (
    MOST_TAPS,
    bfloat16_from_many,
    bfloat16_to_many,
    double_not_2d_or_grouped,
    double_or_complex_not_2d_or_grouped,
    double_or_integers,
    few_terms_in_other_types,
    integers,
    integers_between_several_channels,
)
from .problem import Problem
from .rule import Rule, always, dilated, in_volume, no_overlap, strided


def from_one_channel(problem: Problem) -> bool:
    """One input channel a group. One group: strided or in three dimensions, at most 60 blocks of taps."""
    if problem.inputs > 1 or problem.groups > 1:
        return problem.inputs == 1
    return (strided(problem) or in_volume(problem)) and problem.block_count <= 60


def from_few_channels_in_few_terms(problem: Problem) -> bool:
    """Strided, at most 5 input channels a group; input channels times blocks of taps at most 16.

    One group: more than 3 output channels.
    """
    few = problem.inputs <= 5 and problem.block_count * problem.inputs <= 16
    return strided(problem) and few and (problem.groups > 1 or problem.outputs > 3)


def to_few_channels(problem: Problem) -> bool:
    """Strided, at most 128 taps, at most 3 output channels a group, or 8 where blocks of taps are not full."""
    few = problem.outputs <= 3 or (problem.outputs <= 8 and problem.padding_factor > 1)
    return strided(problem) and few and problem.taps <= 128


def from_one_position(problem: Problem) -> bool:
    """One group, an input of one position."""
    return problem.groups == 1 and problem.input_positions == 1


def in_many_groups(problem: Problem) -> bool:
    """Strided, 8 or more groups of 4 to 8 outputs; full blocks, or up to 9 phases with under 16 inputs or bfloat16."""
    in_many = problem.groups >= 8 and 4 <= problem.outputs <= 8 and in_few_convolutions(problem)
    return in_many and (problem.padding_factor == 1 or problem.inputs < 16 or problem.dtype == "bfloat16")


def in_many_phases(problem: Problem) -> bool:
    """Strided, 10 to 64 phases (grouped in 3-D: up to 64), at most 64 inputs, over 3 outputs, taps*outputs > 24*inputs.

    One group in fewer than three dimensions: 400 million operations or more. Groups times phases: at most 512.
    """
    grouped, volume, phases = problem.groups > 1, in_volume(problem), problem.phase_count
    if not strided(problem) or phases > 64 or phases * problem.groups > 512 or not (phases > 9 or (grouped and volume)):
        return False
    many = problem.inputs <= 64 and problem.outputs > 3 and problem.taps * problem.outputs > 24 * problem.inputs
    return many and (grouped or volume or not work_below(problem, 4e8))


def to_few_channels_by_many_taps(problem: Problem) -> bool:
    """Stride 1, 8 to 128 taps, from 28 or more channels a group to at most 4."""
    return not strided(problem) and problem.inputs >= 28 and problem.outputs <= 4 and 8 <= problem.taps <= 128


def work_below(problem: Problem, operations: float) -> bool:
    """One group and fewer than `operations`: what a convolution costs beside its work counts."""
    return problem.groups == 1 and isinstance(problem.flops, int) and problem.flops < operations


def little_work(problem: Problem) -> bool:
    """One group, strided, fewer than 300 million operations."""
    return strided(problem) and work_below(problem, 3e8)


def little_in_one_block(problem: Problem) -> bool:
    """One group, strided, kernel <= stride, fewer than 300 million operations, 100 or more input channels."""
    return little_work(problem) and no_overlap(problem) and problem.inputs >= 100


def little_in_few_phases(problem: Problem) -> bool:
    """One group, under 300 million operations, blocks not full, at most 9 phases.

    96 or more inputs, at least twice the outputs.
    """
    narrowing = problem.inputs >= max(96, 2 * problem.outputs)
    return little_work(problem) and problem.padding_factor > 1 and problem.phase_count <= 9 and narrowing


def least_work_in_2d(problem: Problem) -> bool:
    """One group in 2-D, strided, blocks of taps not full, under 2.5 million operations: compilation takes longest."""
    plane = problem.geometry.rank == 2 and strided(problem) and problem.padding_factor > 1
    return plane and work_below(problem, 2.5e6)


def little_not_widening(problem: Problem) -> bool:
    """One group, blocks of taps not full, fewer than 80 million operations, no more output than input channels."""
    return work_below(problem, 8e7) and problem.padding_factor > 1 and problem.inputs >= problem.outputs


def little_in_1d(problem: Problem) -> bool:
    """One group in one dimension, fewer than 80 million operations."""
    return problem.geometry.rank == 1 and work_below(problem, 8e7)


def little_in_1d_by_few_taps(problem: Problem) -> bool:
    """One group in one dimension, fewer than 80 million operations; strided, or 2 taps, or 3 taps and dilated."""
    few = problem.taps <= (3 if dilated(problem) else 2)
    return little_in_1d(problem) and (strided(problem) or few)


def pointwise(problem: Problem) -> bool:
    """One group, one tap, stride 1, fewer than 200 million operations: a convolution that is a matrix product."""
    return problem.taps == 1 and not strided(problem) and work_below(problem, 2e8)


def least_work_in_one_block(problem: Problem) -> bool:
    """One group, kernel <= stride, fewer than 3 million operations: a call costs as much as its work."""
    return no_overlap(problem) and work_below(problem, 3e6)


def moderate_in_1d(problem: Problem) -> bool:
    """One group in one dimension, fewer than 500 million operations."""
    return problem.geometry.rank == 1 and work_below(problem, 5e8)


def little_to_many(problem: Problem) -> bool:
    """One group, fewer than 50 million operations, 4 or more output channels."""
    return work_below(problem, 5e7) and problem.outputs > 3


def moderate_in_one_block(problem: Problem) -> bool:
    """Kernel <= stride; fewer than 150 million operations, or several groups, or one dimension."""
    return no_overlap(problem) and (work_below(problem, 1.5e8) or problem.groups > 1 or problem.geometry.rank == 1)


def more_kernel_than_images(problem: Problem) -> bool:
    """One group, strided, at most 8 blocks of taps: the kernel has more elements than input and output together."""
    if problem.groups > 1 or not strided(problem) or problem.block_count > 8 or problem.input_positions is None:
        return False
    images = problem.batch * problem.input_positions * (problem.inputs + problem.block_size * problem.outputs)
    return isinstance(images, int) and problem.taps * problem.inputs * problem.outputs > images


def in_few_convolutions(problem: Problem) -> bool:
    """Strided; full blocks of taps (one convolution), or at most 9 phases (one each): every one is compiled."""
    return strided(problem) and (problem.padding_factor == 1 or problem.phase_count <= 9)


def in_few_convolutions_not_3x3(problem: Problem) -> bool:
    """Strided; full blocks of taps, or at most 9 phases; no 2-D kernel of up to 3x3 from 64 or more channels."""
    small = problem.geometry.rank == 2 and max(problem.geometry.kernel) <= 3 and problem.inputs >= 64
    return in_few_convolutions(problem) and not small


def strided_volume(problem: Problem) -> bool:
    """Strided, in three dimensions."""
    return strided(problem) and in_volume(problem)


def taps_exceed_positions(problem: Problem) -> bool:
    """More taps than input positions, at most 512 taps."""
    positions = problem.input_positions
    return positions is not None and positions < problem.taps <= MOST_TAPS


def one_or_two_pairs(problem: Problem) -> bool:
    """At most two channel pairs a group: one to one, one to two or two to one."""
    return problem.inputs * problem.outputs <= 2


def few_taps_to_one_channel(problem: Problem) -> bool:
    """Limits on taps: none depthwise, 64 in one group of at most two channel pairs, 32 to one output channel.

    Several output channels: one group, strided, taps times output channels at most 16.
    """
    if one_or_two_pairs(problem):
        return problem.groups > 1 or problem.taps <= 64
    if problem.outputs == 1:
        return problem.taps <= 32
    return problem.groups == 1 and strided(problem) and problem.taps * problem.outputs <= 16


def from_sixteen_by_few_taps(problem: Problem) -> bool:
    """One group, at most 64 taps, 16 or more input channels."""
    return problem.groups == 1 and problem.inputs >= 16 and problem.taps <= 64


def strided_depthwise(problem: Problem) -> bool:
    """Depthwise, strided, full blocks of taps."""
    return problem.groups > 1 and one_or_two_pairs(problem) and problem.padding_factor == 1 and strided(problem)


def long_1d_kernel(problem: Problem) -> bool:
    """One dimension, strided, more than 64 taps, in full blocks."""
    return problem.geometry.rank == 1 and problem.taps > 64 and problem.padding_factor == 1 and strided(problem)


def one_block_with_gaps(problem: Problem) -> bool:
    """Kernel <= stride, and smaller in some dimension: most outputs are not reached."""
    return no_overlap(problem) and problem.phase_count < problem.block_size


def gaps_in_full_blocks(problem: Problem) -> bool:
    """Kernel < stride in some dimension, full blocks of taps: one convolution gives all phases."""
    return problem.phase_count < problem.block_size and problem.padding_factor == 1


def volume_in_one_block(problem: Problem) -> bool:
    """Three dimensions, kernel <= stride."""
    return in_volume(problem) and no_overlap(problem)


def few_groups_in_full_blocks(problem: Problem) -> bool:
    """2 to 8 groups, strided, two or more full blocks of taps."""
    return 1 < problem.groups <= 8 and strided(problem) and problem.padding_factor == 1 and not no_overlap(problem)


def few_terms(problem: Problem) -> bool:
    """Several groups; channel pairs times blocks of taps at most 24 in each."""
    return problem.groups > 1 and problem.block_count * problem.inputs * problem.outputs <= 24


def few_terms_by_tap(problem: Problem) -> bool:
    """Several groups; channel pairs times taps at most 110 in each."""
    return problem.groups > 1 and problem.taps * problem.inputs * problem.outputs <= 110


def not_many_terms(problem: Problem) -> bool:
    """Several groups; channel pairs times blocks of taps at most 100 in each."""
    return problem.groups > 1 and problem.block_count * problem.inputs * problem.outputs <= 100


def from_one_to_few(problem: Problem) -> bool:
    """Several groups, one input channel and at most 16 output channels in each."""
    return problem.groups > 1 and problem.inputs == 1 and problem.outputs <= 16


def not_most_terms(problem: Problem) -> bool:
    """Several groups in float32 or 16-bit floats; channel pairs times blocks of taps at most 500 in each."""
    single = problem.dtype in ("float32", "bfloat16", "float16")
    return single and problem.groups > 1 and problem.block_count * problem.inputs * problem.outputs <= 500


def many_to_few_in_1d_or_3d(problem: Problem) -> bool:
    """One or three dimensions, strided, at most 64 taps, from 16 or more channels a group to at most 3."""
    many_to_few = problem.inputs >= 16 and problem.outputs <= 3
    return problem.geometry.rank != 2 and many_to_few and strided(problem) and problem.taps <= 64


def few_blocks(problem: Problem) -> bool:
    """2-D: at most 4 blocks of taps, 1.8 positions a tap, 32 or more inputs. 1-D or 3-D: strided, at most 8 blocks."""
    if problem.geometry.rank == 2:
        return problem.block_count <= 4 and problem.padding_factor <= 1.8 and problem.inputs >= 32
    return strided(problem) and problem.block_count <= 8


def few_positions(problem: Problem) -> bool:
    """At most 4096 input positions in the batch, 1024 channel pairs a group and 512 taps."""
    positions = problem.input_positions
    known = positions is not None and isinstance(problem.batch, int)
    few = known and problem.batch * positions <= 4096
    return few and problem.inputs * problem.outputs <= 1024 and problem.taps <= MOST_TAPS


def from_few_channels(problem: Problem) -> bool:
    """Strided, at most 16 input channels a group, at most 1.8 positions in blocks for each tap."""
    return strided(problem) and problem.inputs <= 16 and problem.padding_factor <= 1.8


# Rows that name bfloat16 come before rows of any engine: those are for XLA, and for oneDNN that is given float32.
RULES = (
    Rule("cpu", "*", "output", from_one_channel, "taps", "4, 32x32, depthwise 64, k 4, s 2: 0.2; gemm 0.3, lax 413"),
    Rule("cpu", "*", "output", few_terms, "taps", "16, 20x20x20, 32 times 3 to 8, k 1, s 1: 39; lax 50"),
    Rule(
        "cpu", "*", "output", from_few_channels_in_few_terms, "taps", "2, 72x15, 2 to 23, k 5x12, s 2x7: 1; phase 2.3"
    ),
    Rule("cpu", "*", "output", double_or_integers, "gemm", "8, 16x16, 128 to 64, k 4, s 2, float64: 2.6; lax 95"),
    Rule("cpu", "*", "output", from_one_position, "gemm", "16, 1x1, 100 to 1024, k 4, s 1: 0.4; lax 3.2, phase 2.7"),
    Rule("cpu", "onednn", "output", in_many_groups, "phase", "8, 28x14, 8 times 4 to 4, k 5x9, s 2x4: 1.1; gemm 4.5"),
    Rule("cpu", "onednn", "output", in_many_phases, "phase", "2, 6x6x12, 16 times 8 to 16, k 5, s 3: 5; gemm 33"),
    Rule("cpu", "*", "output", to_few_channels, "gemm", "1, 64x64x32, 64 to 1, k 3, s 2: 5.4; phase 52"),
    Rule("cpu", "onednn", "output", more_kernel_than_images, "gemm", "8, 32, 512 to 256, k 16, s 8: 5.2; phase 7.8"),
    Rule(
        "cpu",
        "*",
        "output",
        least_work_in_2d,
        "lax",
        "1, 6x6, 32 to 32, k 5, s 2: 0.04, compiled in 90; phase 0.07, 320",
    ),
    Rule("cpu", "bfloat16", "output", little_not_widening, "gemm", "1, 16x16, 93 to 14, k 5, s 3: 0.3; phase 1.2"),
    Rule("cpu", "bfloat16", "output", in_few_convolutions, "phase", "16, 32x32, 128 to 64, k 4, s 2: 6; gemm 35"),
    Rule("cpu", "*", "output", bfloat16_from_many, "gemm", "4, 32x32, 512 to 256, k 2, s 2: 11; phase 21, lax 25"),
    Rule("cpu", "*", "output", to_few_channels_by_many_taps, "gemm", "8, 15x15x15, 30 to 2, k 3, s 1: 1.4; lax 3.4"),
    Rule("cpu", "onednn", "output", pointwise, "gemm", "16, 7x7, 1280 to 320, k 1, s 1: 3.7; lax 4.1"),
    Rule("cpu", "onednn", "output", least_work_in_one_block, "gemm", "4, 4x4, 32 to 32, k 4, s 4: 0.12; lax 0.16"),
    Rule("cpu", "onednn", "output", little_in_one_block, "gemm", "1, 30x30, 145 to 27, k 2, s 8: 0.5; phase 0.7"),
    Rule("cpu", "onednn", "output", little_in_few_phases, "gemm", "1, 11x11, 213 to 70, k 4, s 3: 1.1; phase 1.7"),
    Rule("cpu", "onednn", "output", in_few_convolutions, "phase", "16, 32x32, 128 to 64, k 4, s 2: 23; gemm 81"),
    Rule("cpu", "xla", "output", taps_exceed_positions, "gemm", "3, 13x13, 28 to 24, k 16, s 1: 3.2; lax 31, phase 31"),
    Rule("cpu", "xla", "output", no_overlap, "gemm", "4, 32x32, 512 to 256, k 2, s 2: 21; lax 23, phase 27"),
    Rule("cpu", "xla", "output", in_few_convolutions_not_3x3, "phase", "16, 16x16, 256 to 128, k 4, s 2: 24; gemm 36"),
    Rule("cpu", "*", "output", strided_volume, "gemm", "1, 16x16x16, 128 to 64, k 2, s 2: 3; lax 333"),
    Rule("cpu", "bfloat16", "input", from_one_position, "gemm", "16, 1x1, 100 to 1024, k 4, s 1: 0.3; lax 2.6"),
    Rule("cpu", "bfloat16", "input", from_sixteen_by_few_taps, "lax", "4, 3000, 64 to 2, k 4, s 2: 0.14; taps 0.5"),
    Rule("cpu", "*", "input", few_taps_to_one_channel, "taps", "1, 64x64x32, 64 to 1, k 3, s 2: 4; phase 88, gemm 11"),
    Rule("cpu", "*", "input", from_one_position, "gemm", "16, 1x1, 100 to 1024, k 4, s 1: 0.4; lax 2.4, phase 2.5"),
    Rule("cpu", "*", "input", few_terms_by_tap, "taps", "16, 20x20x20, 32 times 3 to 8, k 1, s 1: 26; lax 37"),
    Rule("cpu", "*", "input", few_terms_in_other_types, "taps", "4, 16x16, 8 times 8, k 3, s 2, int32: 0.2; lax 0.8"),
    Rule(
        "cpu",
        "*",
        "input",
        integers_between_several_channels,
        "gemm",
        "8, 16x16, 128 to 64, k 4, s 2, int32: 13; lax 122, phase 179",
    ),
    Rule("cpu", "*", "input", double_not_2d_or_grouped, "gemm", "2, 200, 32 to 16, k 16, s 8, float64: 0.1; lax 2.4"),
    Rule("cpu", "*", "input", strided_depthwise, "phase", "1, 32x32, depthwise 21, k 16, s 8: 1.9; lax 3.9, gemm 4.3"),
    Rule("cpu", "*", "input", long_1d_kernel, "phase", "4, 500, 513 to 1, k 1024, s 256: 10; by AVX2 lax 109, gemm 14"),
    Rule("cpu", "bfloat16", "input", always, "lax", "16, 32x32, 128 to 64, k 4, s 2: 5; phase 11, gemm 30"),
    Rule("cpu", "onednn", "input", pointwise, "gemm", "16, 7x7, 1280 to 320, k 1, s 1: 3.8; lax 3.9"),
    Rule("cpu", "onednn", "input", least_work_in_one_block, "gemm", "4, 4x4, 32 to 32, k 4, s 4: 0.12; lax 0.15"),
    Rule("cpu", "*", "input", bfloat16_to_many, "gemm", "16, 8x8, 512 to 256, k 4, s 2: 12; lax 18, phase 22"),
    Rule("cpu", "xla", "input", one_block_with_gaps, "gemm", "4, 84x47, 11 to 138, k 1, s 6: 1.0; lax 81, phase 1.1"),
    Rule("cpu", "xla", "input", gaps_in_full_blocks, "phase", "7, 74x17, 1 to 113, k 3x12, s 7x2: 16; lax 23, gemm 74"),
    Rule("cpu", "xla", "input", volume_in_one_block, "phase", "1, 16x16x16, 128 to 64, k 2, s 2: 4.5; gemm 5.3"),
    Rule("cpu", "xla", "input", strided_volume, "gemm", "1, 16x6x16, 14 to 45, k 6x4x4, s 2x1x1: 5.0; lax 14"),
    Rule("cpu", "xla", "input", taps_exceed_positions, "gemm", "3, 13x13, 28 to 24, k 16, s 1: 6.1; lax 31, phase 31"),
    Rule("cpu", "*", "kernel", not_many_terms, "taps", "4, 32x32, depthwise 64, k 4, s 2: 0.9; gemm 15, lax 22"),
    Rule("cpu", "*", "kernel", from_one_to_few, "taps", "4, 28x28, depthwise 192, k 15, s 1: 18; lax 54, gemm 463"),
    Rule("cpu", "xla", "kernel", not_most_terms, "taps", "2, 14x14, 64 times 2 to 2, k 11, s 1: 5.6; lax 18, gemm 25"),
    Rule("cpu", "*", "kernel", integers, "gemm", "8, 16x16, 128 to 64, k 4, s 2, int32: 14; lax 204, phase 230"),
    Rule(
        "cpu",
        "*",
        "kernel",
        double_or_complex_not_2d_or_grouped,
        "gemm",
        "1, 8x8x8, 16 to 8, k 3, complex64: 0.3; lax 4.2",
    ),
    Rule("cpu", "*", "kernel", many_to_few_in_1d_or_3d, "gemm", "1, 64x64x32, 64 to 1, k 3, s 2: 7; lax 27"),
    Rule("cpu", "xla", "kernel", no_overlap, "gemm", "4, 32x32, 512 to 256, k 2, s 2: 24; phase 65"),
    Rule("cpu", "onednn", "kernel", moderate_in_one_block, "gemm", "1, 11x42, 16 to 182, k 2x1, s 8x2: 0.6; lax 0.9"),
    Rule(
        "cpu",
        "onednn",
        "kernel",
        little_in_1d_by_few_taps,
        "gemm",
        "4, 207, 51 to 74, k 6, s 3: 1.1; lax 1.6, phase 1.5",
    ),
    Rule("cpu", "bfloat16", "kernel", moderate_in_1d, "gemm", "2, 4000, 64 to 32, k 10, s 5: 3.1; lax 3.7"),
    Rule("cpu", "amx", "kernel", little_to_many, "gemm", "5, 7x5, 110 to 89, k 1x5, s 8x3: 0.4; lax 0.65"),
    Rule("cpu", "bfloat16", "kernel", always, "lax", "4, 32x32, 512 to 256, k 2, s 2: 10; gemm 14"),
    Rule("cpu", "onednn", "kernel", pointwise, "gemm", "16, 7x7, 1280 to 320, k 1, s 1: 4.7; lax 6.7"),
    Rule("cpu", "onednn", "kernel", few_groups_in_full_blocks, "phase", "4, 14x14, 2 times 128, k 4, s 2: 5; lax 6.6"),
    Rule("cpu", "*", "kernel", bfloat16_from_many, "gemm", "8, 256, 256 to 128, k 16, s 8: 8; lax 15, phase 20"),
    Rule("cpu", "xla", "kernel", few_positions, "gemm", "1, 57x35, 2 to 67, k 8x4, s 3x1: 1.6; phase 13, lax 16"),
    Rule("cpu", "xla", "kernel", few_blocks, "gemm", "16, 8x8, 512 to 256, k 4, s 2: 26; phase 35"),
    Rule("cpu", "xla", "kernel", from_few_channels, "phase", "2, 100x100, 8 to 21, k 7, s 3: 87; lax 155, gemm 353"),
)
