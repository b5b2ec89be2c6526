"""TPU: what takes the fewest cycles by the compiler's estimate; in doubt, what lax itself emits.

Evidence: N, spatial, channels, kernel k, stride s: thousands of estimated cycles on v5e in bfloat16, with movement
that the compiler leaves unpriced (`python -m benchmarks tpu-estimate`). An estimate is not a measured time.
"""

import math

from .problem import Problem
from .rule import Rule, no_overlap, strided

MOST_WRITTEN_OUT = 64
"""The most taps with which the Pallas kernel compiles in seconds."""


def _one_group_2d_or_3d(problem: Problem) -> bool:
    """One group, strided, in two or three dimensions."""
    return problem.groups == 1 and strided(problem) and problem.geometry.rank > 1


def gaps_to_few(problem: Problem) -> bool:
    """One group in 2-D or 3-D, kernel <= stride with gaps: one tap, or at most 16 to at most 8 channels."""
    few = problem.outputs <= 8 and problem.taps <= 16 and no_overlap(problem)
    gaps = problem.geometry.kernel != problem.geometry.strides and problem.padding_factor == 1
    return _one_group_2d_or_3d(problem) and gaps and (problem.taps == 1 or few)


def one_tap(problem: Problem) -> bool:
    """One group in 2-D or 3-D, one tap, strided, 8 or more input channels, at most 12 images."""
    known = isinstance(problem.batch, int) and problem.batch <= 12
    return _one_group_2d_or_3d(problem) and problem.taps == 1 and problem.inputs >= 8 and known


def kernel_is_stride(problem: Problem) -> bool:
    """One group in 2-D or 3-D, kernel = stride, 32 or more inputs, at most 5 images; over 16 bits: 9 or more outputs.

    With more images gemm takes 1.5 to 2 times lax's cycles (11, 17x17, 74 to 140, k 2, s 2: 63 thousand, lax 41), from
    one channel 4 (9, 32x32, 1 to 42, k 3, s 3), to 8 in float32 1.1 to 2.8 (2, 74x74, 39 to 8, k 4, s 4, v6e).
    """
    one_matrix = _one_group_2d_or_3d(problem) and problem.geometry.kernel == problem.geometry.strides
    few = isinstance(problem.batch, int) and problem.batch <= 5
    return one_matrix and few and problem.inputs >= 32 and (_in_16_bits(problem) or problem.outputs > 8)


def kernel_is_stride_many_positions(problem: Problem) -> bool:
    """One group in 2-D or 3-D, kernel = stride, 32 or more inputs, at most 5 images, 4096 or more positions in all.

    Types wider than 16 bits: in 2-D, more than 8 output channels, at most 8192 channel pairs.
    """
    return _many_positions(problem) and (_in_16_bits(problem) or few_channel_pairs(problem))


def few_channel_pairs(problem: Problem) -> bool:
    """One group in 2-D or 3-D, kernel = stride, 32 or more inputs, up to 5 images and 8192 pairs, from 4096 positions.

    Types wider than 16 bits: in 2-D, more than 8 output channels.
    """
    thin = problem.inputs * problem.outputs <= 8192
    return _many_positions(problem) and thin and (_in_16_bits(problem) or problem.geometry.rank == 2)


def _many_positions(problem: Problem) -> bool:
    sizes = problem.batch, *problem.geometry.input
    known = all(isinstance(size, int) for size in sizes)
    return kernel_is_stride(problem) and known and math.prod(sizes) >= 4096


def _in_16_bits(problem: Problem) -> bool:
    return problem.dtype in ("bfloat16", "float16")


def to_one_channel(problem: Problem) -> bool:
    """One group, one output channel, at least 27 taps, two or three dimensions, all strided."""
    every = min(problem.geometry.strides) > 1
    return _one_group_2d_or_3d(problem) and every and problem.outputs == 1 and problem.taps >= 27


def medium_kernel_to_one(problem: Problem) -> bool:
    """One group, one output channel, 27 to 128 taps, two or three dimensions, all strided.

    With 225 taps (5, 60x60, 23 to 1, k 15, s 3, float32) phase takes 170, lax 69.
    """
    return to_one_channel(problem) and problem.taps <= 128


def long_1d_to_one(problem: Problem) -> bool:
    """One group in one dimension, strided, one output channel, at least 128 taps in full blocks."""
    line = problem.geometry.rank == 1 and problem.groups == 1 and problem.outputs == 1
    return line and strided(problem) and problem.padding_factor == 1 and problem.taps >= 128


def large_kernel(problem: Problem) -> bool:
    """At least 64 taps in full blocks, two or three dimensions, all strided, at most 32 output channels a group."""
    space = problem.geometry.rank > 1 and min(problem.geometry.strides) > 1
    return space and problem.padding_factor == 1 and problem.taps >= 64 and problem.outputs <= 32


def large_and_depthwise(problem: Problem) -> bool:
    """Depthwise, at least 64 taps in full blocks, two or three dimensions, all strided."""
    return large_kernel(problem) and problem.inputs == problem.outputs == 1


def kernel_fills_the_chip(problem: Problem) -> bool:
    """bfloat16, from 64 channels to 64 or more, at most 64 taps, 256 or more positions a step, little copied twice.

    Stride 1: only if a tap's channels fill the lanes. Else taps are copied side by side, with no interleaving of phases
    to make up for it (8, 103x103, 107 to 120, k 7, s 1: 1791; lax 1056). Outputs that leave lanes empty: only from 512
    positions on, as the change of layout after them costs more (3, 10x10, 91 to 111, k 4, s 2: 26; lax 20).
    """
    from . import tpu_tiles  # a tenth of the time that importing jdeconv would take

    few = problem.dtype != "bfloat16" or min(problem.inputs, problem.outputs) < 64
    if few or problem.taps > MOST_WRITTEN_OUT or (not strided(problem) and tpu_tiles.joins_taps(problem.inputs)):
        return False
    call, tile = tpu_tiles.default_call(problem), tpu_tiles.tiles_for(problem)
    if isinstance(tile, str) or tpu_tiles.copied_ratio(tile, call) > tpu_tiles.MOST_COPIED:
        return False
    positions = call.batch * call.height.blocks * call.width.blocks
    if positions < tpu_tiles.ROWS and call.outputs % tpu_tiles.LANES:
        return False
    return tile.images * tile.rows * min(tile.columns, call.width.blocks) >= 256


RULES = (
    Rule("tpu", "*", "output", gaps_to_few, "gemm", "4, 84x47, 11 to 138, k 1, s 6: 613; lax 10643"),
    # Issue cycles of the kernel's schedule, plus the estimate for the rest of its program (`benchmarks tpu-pallas`).
    Rule("tpu", "*", "output", kernel_fills_the_chip, "pallas", "16, 32x32, 128 to 64, k 4, s 2: 85; lax 239"),
    Rule("tpu", "*", "output", kernel_is_stride_many_positions, "gemm", "4, 32x32, 512 to 256, k 2, s 2: 298; lax 401"),
    Rule("tpu", "*", "output", to_one_channel, "gemm", "2, 64x64, 56 to 1, k 9, s 3: 97; phase 125, lax 798"),
    Rule("tpu", "*", "output", long_1d_to_one, "phase", "4, 500, 513 to 1, k 1024, s 256: 169; gemm 649, lax 126035"),
    Rule("tpu", "*", "output", large_kernel, "phase", "1, 32x32, 21 to 21, k 16, s 8: 597; lax 1175, gemm 2376"),
    Rule("tpu", "*", "input", one_tap, "gemm", "4, 84x47, 11 to 138, k 1, s 6: 459; lax 8105"),
    Rule("tpu", "*", "input", kernel_is_stride, "gemm", "4, 32x32, 512 to 256, k 2, s 2: 98; lax 185"),
    Rule("tpu", "*", "input", long_1d_to_one, "gemm", "4, 500, 513 to 1, k 1024, s 256: 107; phase 143, lax 176"),
    Rule("tpu", "*", "kernel", one_tap, "gemm", "4, 84x47, 11 to 138, k 1, s 6: 436; lax 13085"),
    Rule("tpu", "*", "kernel", few_channel_pairs, "gemm", "1, 128x128, 128 to 64, k 2, s 2: 76; phase 111, lax 254"),
    Rule("tpu", "*", "kernel", medium_kernel_to_one, "phase", "1, 64x64x32, 64 to 1, k 3, s 2: 1438; lax 14041"),
    Rule("tpu", "*", "kernel", long_1d_to_one, "phase", "4, 500, 513 to 1, k 1024, s 256: 92; gemm 136, lax 348"),
    Rule("tpu", "*", "kernel", large_and_depthwise, "phase", "1, 32x32, depthwise 21, k 16, s 8: 362; lax 1632"),
)
