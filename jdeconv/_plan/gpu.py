"""GPU: what makes XLA call the right cuDNN kernel, or a matrix product, without extra work.

Evidence: the kernels that programs compiled ahead of time for an H100 call (XLA of jaxlib 0.12; float32 and bfloat16
alike), and how many times the definition's products these compute (`python -m benchmarks gpu-kernels`).
"""

import math

from .._geometry import Size
from .problem import FEW_GROUPS, Problem
from .rule import Rule, dilated, strided


def any_integers(problem: Problem) -> bool:
    """Integers: cuDNN has no convolution of 32-bit integers."""
    return problem.dtype.startswith(("int", "uint"))


def depthwise_in_full_blocks(problem: Problem) -> bool:
    """Strided, several groups of one input channel, at most 64 blocks of taps, all full: they give all phases."""
    full = problem.padding_factor == 1 and problem.block_count <= 64
    return strided(problem) and problem.inputs == 1 < problem.groups and full


def no_transposed_kernel(problem: Problem) -> bool:
    """Strided, and in more than 8 groups, depthwise or dilated: XLA calls no convBackwardInput for these."""
    grouped = problem.groups > FEW_GROUPS or problem.inputs == 1 < problem.groups
    return strided(problem) and (grouped or dilated(problem))


def more_taps_than_input_positions(problem: Problem) -> bool:
    """In 2-D, at most 8 groups, more taps than input positions: XLA swaps the two, and sees no transposed one."""
    return (
        problem.geometry.rank == 2
        and problem.groups <= FEW_GROUPS
        and problem.taps > _positions(problem.geometry.input)
    )


def more_taps_than_output_positions(problem: Problem) -> bool:
    """One group, more taps than output positions: XLA takes the smaller for the kernel. Or strided and dilated."""
    swapped = problem.groups == 1 and problem.taps > _positions(problem.geometry.output)
    return swapped or (strided(problem) and dilated(problem))


def kernel_covers_input(problem: Problem) -> bool:
    """Dilated; or kernel >= input in every dimension, or in any if no strided dimension has several positions."""
    g = problem.geometry
    sizes = [(k, _positions((i,)), s) for k, i, s in zip(g.kernel, g.input, g.strides, strict=True)]
    apart = any(s > 1 and i > 1 for _, i, s in sizes)
    return dilated(problem) or (all if apart else any)(k >= i for k, i, _ in sizes)


def _positions(sizes: tuple[Size, ...]) -> float:
    """Their product; an unknown size counts as infinite."""
    return math.prod(size if isinstance(size, int) else math.inf for size in sizes)


RULES = (
    Rule("gpu", "*", "*", any_integers, "gemm", "8x8, int32, k 3, s 2: compiles; lax is refused by XLA"),
    Rule(
        "gpu", "*", "output", depthwise_in_full_blocks, "taps",
        "4, 32x32, depthwise 64, k 4, s 2: one loop, no extra work; lax convForward 4x"
    ),
    Rule(
        "gpu", "*", "output", no_transposed_kernel, "gemm",
        "4, 32x32, 64 to 64 in 16 groups, k 3, s 2: one product; lax convForward 4x"
    ),
    Rule(
        "gpu", "*", "output", more_taps_than_input_positions, "gemm",
        "10, 9x9, 61 to 2, k 10, s 3: one product; lax convForward 56x, the input being its kernel"
    ),
    Rule(
        "gpu", "*", "input", more_taps_than_output_positions, "gemm",
        "5, 6x6x6, 4 to 9, k 11, s 1: one product; lax convBackwardFilter"
    ),
    Rule(
        "gpu", "*", "kernel", kernel_covers_input, "gemm",
        "5, 4x4x4, 21 to 6, k 4, s 3: one product; lax convForward 16x, the input being its kernel"
    ),
)  # fmt: skip
