"""Which variant of a formulation computes a result: what a formulation would otherwise decide by itself. No JAX here.

The first row that fits wins. A variant's name is a key of the formulation's `VARIANTS`.
"""

import dataclasses
import math
from collections.abc import Callable

from .._geometry import Geometry
from .._phases import block_geometry
from .problem import Problem
from .rule import always


@dataclasses.dataclass(frozen=True)
class Variant:
    """Where `when` holds, `name` is how `method` computes the result; each of the first four may name several."""

    platform: str
    engine: str
    method: str
    result: str
    when: Callable[[Problem], bool]
    name: str


def one_position(problem: Problem) -> bool:
    """An input of one position, which reaches an output."""
    geometry = problem.geometry
    return problem.input_positions == 1 and all(len(range(taps.start, taps.stop)) for taps in geometry.reaching)


def one_block(problem: Problem) -> bool:
    """One block of taps, with no zeros between them, in up to three dimensions, for which there are letters."""
    return problem.geometry.rank <= 3 and problem.block_count == 1 and problem.padding_factor == 1


def blocks_not_full(problem: Problem) -> bool:
    """Where zeros would fill up blocks of taps: infinite inputs times these are undefined, and they make work."""
    return problem.padding_factor > 1


def blocks_not_full_in_groups(problem: Problem) -> bool:
    """Two groups or more, and blocks of taps that zeros would fill up."""
    return problem.groups > 1 and problem.padding_factor > 1


# 8, 4x4x4, 128 to 128, k 4, s 2: phases apart 4.9 ms, not 8.1; 16, 8x8, 512 to 256: 19, not 22; of less excess, as in
# 16, 16x16, 256 to 128: 24, not 21; of few operations 8, 14x14, 64 to 32: 0.9, not 0.7.
EXCESS_POSITIONS, MANY_CHANNELS, MUCH_WORK = 1.14, 64, 5e8  # positions over outputs, output channels, operations


def blocks_not_full_or_in_excess(problem: Problem) -> bool:
    """Blocks of taps that zeros would fill up, or blocks of outputs so far beyond the output that many calls pay."""
    geometry = problem.geometry
    outputs = problem.batch * math.prod(geometry.output)
    if problem.padding_factor > 1 or not isinstance(outputs, int) or problem.unknown_channels:
        return problem.padding_factor > 1
    blocks = problem.batch * math.prod(
        n * s for n, s in zip(block_geometry(geometry).output, geometry.strides, strict=True)
    )
    operations = 2 * outputs * problem.block_count * problem.groups * problem.inputs * problem.outputs
    much = operations > MUCH_WORK and problem.outputs >= MANY_CHANNELS and problem.phase_count <= 9
    return much and blocks > EXCESS_POSITIONS * outputs


def to_few_channels(problem: Problem) -> bool:
    """To at most 8 channels a group, of which a row is shorter than a vector register."""
    return problem.outputs <= 8


# Up to so many terms of depthwise kernels, on as many channels as a vector register holds, are padded one by one in
# the loop that sums them: 64 on 4, 32x32, k 4, s 2: 0.15 ms, not 0.3; of more, LLVM tests each element for the ends.
FEW_TERMS, VECTOR = 4, 16


def few_terms_in_many_groups(problem: Problem) -> bool:
    """Up to 4 terms, to one channel in each of 16 groups or more."""
    few = problem.block_count * problem.inputs <= FEW_TERMS
    return few and problem.outputs == 1 and problem.groups >= VECTOR


def many_to_fewer(problem: Problem) -> bool:
    """From two images on, to two channels or more and at most as many as from; no output is cut off.

    There the TPU compiler estimates fewer cycles for roles swapped than for autodiff's: 16, 8x8, 512 to 256, k 4, s 2:
    51, not 116 thousand. Of one image it is more (1, 16x16, 93 to 14, k 5, s 3: 16, not 8), of wide images the same, of
    depthwise ones and of one output more (10, 21x21, 148 to 1, k 2, s 6: 19, not 17).
    """
    return _many_to_fewer(problem, problem.geometry, problem.outputs)


def many_to_fewer_in_blocks(problem: Problem) -> bool:
    """The same of blocks of taps: from two images on, to at most as many channels, phases included, as from."""
    return _many_to_fewer(problem, block_geometry(problem.geometry), problem.phase_count * problem.outputs)


def _many_to_fewer(problem: Problem, geometry: Geometry, outputs: int) -> bool:
    if not isinstance(problem.batch, int) or problem.unknown_channels:
        return False
    cut = any(pad < 0 for pad in (*geometry.low, *geometry.high))
    return problem.batch > 1 and problem.inputs >= outputs > 1 and not cut


VARIANTS = (
    # One lax convolution. The TPU's compiler makes slower programs of the same sums in another order of operations.
    Variant("tpu", "*", "lax", "kernel", many_to_fewer, "plain"),
    Variant("tpu", "*", "lax pallas", "input kernel", always, "as lax"),
    Variant("tpu", "*", "lax", "output", always, "as lax"),
    Variant("gpu", "*", "lax", "output", always, "for cuDNN"),
    Variant("gpu", "*", "lax pallas", "kernel", always, "for cuDNN"),
    Variant("cpu", "onednn", "lax pallas", "input kernel", always, "for oneDNN"),
    Variant("*", "*", "lax", "output", always, "plain"),
    Variant("*", "*", "lax pallas", "input kernel", always, "plain"),
    # Convolutions of stride 1.
    Variant("tpu", "*", "phase", "output input", blocks_not_full, "apart, as lax"),
    Variant("tpu", "*", "phase", "output input", always, "fused, as lax"),
    Variant("tpu", "*", "phase", "kernel", many_to_fewer_in_blocks, "fused"),
    Variant("tpu", "*", "phase", "kernel", always, "fused, as lax"),
    Variant("gpu", "*", "phase", "output", blocks_not_full, "apart, for cuDNN"),
    Variant("gpu", "*", "phase", "output", always, "fused, for cuDNN"),
    Variant("gpu", "*", "phase", "kernel", always, "fused, for cuDNN"),
    Variant("cpu", "*", "phase", "output", blocks_not_full_or_in_excess, "apart"),
    Variant("cpu", "onednn", "phase", "kernel", always, "fused, for oneDNN"),
    Variant("*", "*", "phase", "output input", blocks_not_full, "apart"),
    Variant("*", "*", "phase", "*", always, "fused"),
    # Matrix products. TPUs have no products of one position: their rules were measured before there were any.
    Variant("tpu", "*", "gemm", "*", one_block, "one block"),
    Variant("cpu gpu other", "*", "gemm", "*", one_position, "one position"),
    Variant("gpu", "*", "gemm", "input kernel", always, "patches"),
    Variant("cpu", "*", "gemm", "kernel", to_few_channels, "patches, positions last"),
    Variant("cpu", "onednn", "gemm", "output", blocks_not_full_in_groups, "phases"),
    Variant("cpu", "*", "gemm", "output", blocks_not_full, "phases, positions last"),
    Variant("*", "*", "gemm", "output", always, "blocks"),
    Variant("*", "*", "gemm", "input kernel", always, "windows"),
    # Elementwise sums.
    Variant("*", "*", "taps", "output", few_terms_in_many_groups, "padded apart"),
    Variant("*", "*", "taps", "output input", always, "windows"),
    Variant("*", "*", "taps", "kernel", always, "strips"),
    # Kernels of our own.
    Variant("tpu", "*", "pallas", "output", always, "TPU kernel"),
    Variant("gpu", "*", "pallas", "output", always, "GPU kernel"),
    Variant("cpu", "*", "pallas", "output", always, "TPU kernel, interpreted"),
    Variant("*", "*", "pallas", "output", always, "none"),
)
