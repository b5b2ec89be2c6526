"""CPU: what the rules ask of dtypes other than float32. No JAX here."""

from .problem import Problem
from .rule import in_volume, strided

MOST_TAPS = 512  # each is an operation of a formulation that adds up tap by tap


def integers(problem: Problem) -> bool:
    """Integers, at most 512 taps: XLA's convolutions multiply integers one by one, its products by vectors."""
    return problem.dtype.startswith(("int", "uint")) and problem.taps <= MOST_TAPS


def double(problem: Problem) -> bool:
    """float64 and complex128, at most 512 taps."""
    return problem.dtype in ("float64", "complex128") and problem.taps <= MOST_TAPS


def double_or_integers(problem: Problem) -> bool:
    """Integers; float64 and complex128 that are strided, of one tap, in one or three dimensions or in several groups.

    At most 512 taps. XLA runs other convolutions of float64 fast: 8, 28x28, 128 to 128, k 3, s 1: 28 ms; gemm 51.
    """
    sparse = strided(problem) or problem.taps == 1 or _not_2d_or_grouped(problem)
    return (double(problem) and sparse) or integers(problem)


def integers_between_several_channels(problem: Problem) -> bool:
    """Integers, at most 512 taps: several groups, one output channel, or 8 or more with 4 or more input channels."""
    several = problem.outputs >= 8 and problem.inputs >= 4
    return integers(problem) and (problem.groups > 1 or problem.outputs == 1 or several)


def double_not_2d_or_grouped(problem: Problem) -> bool:
    """float64 and complex128 in one or three dimensions or in several groups, at most 512 taps."""
    return double(problem) and _not_2d_or_grouped(problem)


def double_or_complex_not_2d_or_grouped(problem: Problem) -> bool:
    """float64 and complex numbers in one or three dimensions or in several groups, at most 512 taps."""
    single = problem.dtype == "complex64" and problem.taps <= MOST_TAPS
    return (double(problem) or single) and _not_2d_or_grouped(problem)


def _not_2d_or_grouped(problem: Problem) -> bool:
    return problem.geometry.rank != 2 or problem.groups > 1


def few_terms_in_other_types(problem: Problem) -> bool:
    """Several groups of integers, float64 or complex numbers; taps times output channels at most 128 in each."""
    other = problem.dtype not in ("float32", "bfloat16", "float16")
    return other and problem.groups > 1 and problem.taps * problem.outputs <= 128


def bfloat16_from_many(problem: Problem) -> bool:
    """bfloat16, strided, full blocks of taps, 64 or more input channels for each block."""
    full = problem.dtype == "bfloat16" and problem.padding_factor == 1 and strided(problem)
    return full and problem.inputs >= 64 * problem.block_count


def bfloat16_to_many(problem: Problem) -> bool:
    """bfloat16, strided, not in 3-D, full blocks of taps, phases times outputs at least 128 for each block."""
    full = problem.dtype == "bfloat16" and problem.padding_factor == 1 and strided(problem) and not in_volume(problem)
    return full and problem.phase_count * problem.outputs >= 128 * problem.block_count
