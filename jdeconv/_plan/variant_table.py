"""The second table: which variant of the chosen formulation computes a result. No JAX here.

The first row that fits wins. It names a function of the formulation's `VARIANTS`; these choose by sizes alone.
"""

import dataclasses
import math
from collections.abc import Callable

from .._geometry import Geometry
from .._phase_geometry import block_geometry
from .problem import Problem


@dataclasses.dataclass(frozen=True)
class VariantRule:
    """Where `when` holds, `method` computes the result by variant `name`; the first four may list several words."""

    platform: str
    engine: str
    method: str
    result: str
    when: Callable[[Problem], bool]
    name: str


def always(problem: Problem) -> bool:
    """Every problem."""
    return True


def one_position(problem: Problem) -> bool:
    """An input of one position that reaches an output."""
    geometry = problem.geometry
    return problem.input_positions == 1 and all(len(range(taps.start, taps.stop)) for taps in geometry.reaching)


def one_block(problem: Problem) -> bool:
    """One full block of taps in at most three dimensions: `gemm_tpu` has no letters for more."""
    return problem.geometry.rank <= 3 and problem.block_count == 1 and problem.padding_factor == 1


def blocks_not_full(problem: Problem) -> bool:
    """Blocks of taps not full: zeros in them would make work, and infinite inputs times zero are undefined."""
    return problem.padding_factor > 1


def blocks_not_full_in_groups(problem: Problem) -> bool:
    """Several groups, blocks of taps not full."""
    return problem.groups > 1 and problem.padding_factor > 1


# A call for each phase, and one call in blocks: 8, 4x4x4, 128 to 128, k 4, s 2: 4.9 and 8.1 ms; 16, 8x8, 512 to 256: 19
# and 22; with less excess, 16, 16x16, 256 to 128: 24 and 21; with few operations, 8, 14x14, 64 to 32: 0.9 and 0.7.
EXCESS, MANY_CHANNELS, MUCH_WORK, FEW_PHASES = 1.14, 64, 5e8, 9  # excess: positions in blocks over positions out


def blocks_not_full_or_in_excess(problem: Problem) -> bool:
    """Blocks of taps not full; or blocks hold over 1.14 times the output's positions, with 64 or more output channels,
    over 500 million operations and at most 9 phases."""
    geometry = problem.geometry
    outputs = problem.batch * math.prod(geometry.output)
    if problem.padding_factor > 1 or not isinstance(outputs, int) or problem.unknown_channels:
        return problem.padding_factor > 1
    blocks = problem.batch * math.prod(
        n * s for n, s in zip(block_geometry(geometry).output, geometry.strides, strict=True)
    )
    operations = 2 * outputs * problem.block_count * problem.groups * problem.inputs * problem.outputs
    much = operations > MUCH_WORK and problem.outputs >= MANY_CHANNELS and problem.phase_count <= FEW_PHASES
    return much and blocks > EXCESS * outputs


def to_at_most_8_channels(problem: Problem) -> bool:
    """At most 8 output channels a group: a row of them is shorter than a vector register."""
    return problem.outputs <= 8


# The loop that sums so few terms can pad each one, if there are channels for a vector register: depthwise 64 on
# 4, 32x32, k 4, s 2: 0.15 ms, not 0.3. With more terms LLVM tests each element for the ends.
FEW_TERMS, VECTOR = 4, 16


def few_terms_in_many_groups(problem: Problem) -> bool:
    """At least 16 groups of one output channel; input channels times blocks of taps at most 4."""
    few = problem.block_count * problem.inputs <= FEW_TERMS
    return few and problem.outputs == 1 and problem.groups >= VECTOR


# Terms written out in one sum, and sums written out in one program; more are computed in turns, of a loop.
MOST_TERMS, MOST_SUMS = 100, 40


def many_terms(problem: Problem) -> bool:
    """Sizes known; over 100 terms, or for kernels over 40 blocks of taps; but for kernels strided and dilated at once.

    LLVM does not vectorise more terms: depthwise 192 on 4, 28x28, k 13, s 1: 13 ms in turns, at once 127. More sums
    take seconds to compile (k 9: 0.6 s in turns, at once 2.8), and from 10x10 taps on they are slower too (9 ms, 20).
    """
    many = problem.terms > (MOST_SUMS if problem.result == "kernel" else MOST_TERMS)
    return many and problem.known_sizes and problem.terms_by_taps


def in_groups(problem: Problem) -> bool:
    """Several groups.

    There the TPU compiler estimates fewer cycles for the strided convolution's own kernel gradient than for autodiff's
    of the dilated one (4, 32x32, depthwise 64, k 4, s 2: 45, not 110 thousand; 4, 28x28, 32 groups of 8, k 3, s 1: 251,
    not 257).
    """
    return problem.groups > 1


def many_to_fewer(problem: Problem) -> bool:
    """Two or more images, two or more outputs, at least as many inputs; no output is cut off.

    There the TPU compiler estimates fewer cycles for swapped roles than for autodiff's (16, 8x8, 512 to 256, k 4,
    s 2: 51, not 116 thousand). It estimates more for one image (1, 16x16, 93 to 14, k 5, s 3: 16, not 8), for depthwise
    kernels and for one output channel (10, 21x21, 148 to 1, k 2, s 6: 19, not 17), and the same for wide images.
    """
    return _many_to_fewer(problem, problem.geometry, problem.outputs)


def many_to_fewer_in_blocks(problem: Problem) -> bool:
    """Two or more images, two or more outputs times phases, at least as many inputs; no block cut off."""
    return _many_to_fewer(problem, block_geometry(problem.geometry), problem.phase_count * problem.outputs)


def _many_to_fewer(problem: Problem, geometry: Geometry, outputs: int) -> bool:
    if not isinstance(problem.batch, int) or problem.unknown_channels:
        return False
    cut = any(pad < 0 for pad in (*geometry.low, *geometry.high))
    return problem.batch > 1 and problem.inputs >= outputs > 1 and not cut


VARIANT_RULES = (
    # One lax convolution. The TPU compiler's programs are slower if the same sums come in another order of operations.
    VariantRule("tpu", "*", "lax pallas", "kernel", in_groups, "in batch groups"),
    VariantRule("tpu", "*", "lax pallas", "kernel", many_to_fewer, "plain"),
    VariantRule("tpu", "*", "lax pallas", "input kernel", always, "as lax"),
    VariantRule("tpu", "*", "lax", "output", always, "as lax"),
    VariantRule("gpu", "*", "lax", "output", always, "for cuDNN"),
    VariantRule("gpu", "*", "lax pallas", "kernel", always, "for cuDNN"),
    VariantRule("cpu", "onednn", "lax pallas", "input kernel", always, "for oneDNN"),
    VariantRule("*", "*", "lax", "output", always, "plain"),
    VariantRule("*", "*", "lax pallas", "input kernel", always, "plain"),
    # Convolutions of stride 1.
    VariantRule("tpu", "*", "phase", "output input", blocks_not_full, "apart, as lax"),
    VariantRule("tpu", "*", "phase", "output input", always, "fused, as lax"),
    VariantRule("tpu", "*", "phase", "kernel", many_to_fewer_in_blocks, "fused"),
    VariantRule("tpu", "*", "phase", "kernel", always, "fused, as lax"),
    VariantRule("gpu", "*", "phase", "output", blocks_not_full, "apart, for cuDNN"),
    VariantRule("gpu", "*", "phase", "output", always, "fused, for cuDNN"),
    VariantRule("gpu", "*", "phase", "kernel", always, "fused, for cuDNN"),
    VariantRule("cpu", "*", "phase", "output", blocks_not_full_or_in_excess, "apart"),
    VariantRule("cpu", "onednn", "phase", "kernel", always, "fused, for oneDNN"),
    VariantRule("*", "*", "phase", "output input", blocks_not_full, "apart"),
    VariantRule("*", "*", "phase", "*", always, "fused"),
    # Matrix products. TPUs skip "one position": their rules were measured before it existed.
    VariantRule("tpu", "*", "gemm", "*", one_block, "one block"),
    VariantRule("cpu gpu other", "*", "gemm", "*", one_position, "one position"),
    VariantRule("gpu", "*", "gemm", "input kernel", always, "patches"),
    VariantRule("cpu", "*", "gemm", "kernel", to_at_most_8_channels, "patches, positions last"),
    VariantRule("cpu", "onednn", "gemm", "output", blocks_not_full_in_groups, "phases"),
    VariantRule("cpu", "*", "gemm", "output", blocks_not_full, "phases, positions last"),
    VariantRule("*", "*", "gemm", "output", always, "blocks"),
    VariantRule("*", "*", "gemm", "input kernel", always, "windows"),
    # Elementwise sums.
    VariantRule("*", "*", "taps", "*", many_terms, "in turns"),
    VariantRule("*", "*", "taps", "output", few_terms_in_many_groups, "padded apart"),
    VariantRule("*", "*", "taps", "output input", always, "windows"),
    VariantRule("*", "*", "taps", "kernel", always, "strips"),
    # Kernels of our own.
    VariantRule("tpu", "*", "pallas", "output", always, "TPU kernel"),
    VariantRule("gpu", "*", "pallas", "output", always, "GPU kernel"),
    VariantRule("cpu", "*", "pallas", "output", always, "TPU kernel, interpreted"),
    VariantRule("*", "*", "pallas", "output", always, "none"),
)
