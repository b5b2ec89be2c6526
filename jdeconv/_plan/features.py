"""The named features of a problem that rows compare with ranges: numbers, facts and words. No JAX here.

An unknown size counts as infinitely large, and so does an unknown number of operations. A feature is computed only
when a row asks for it.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

from .._geometry import Size
from .problem import Problem

Value = float | str
Function = Callable[[Problem], Value]
F = TypeVar("F", bound=Function)


@dataclasses.dataclass(frozen=True)
class Feature:
    """A function of a problem, and the words that a row's text has for it."""

    of: Function
    one: str
    """One of what a number counts; or a fact, where it holds."""
    many: str
    """Several; or a fact, where it does not hold."""

    @property
    def meaning(self) -> str:
        """What is counted, or what holds: the first paragraph of the function's docstring."""
        return " ".join((self.of.__doc__ or "").split("\n\n")[0].split())


FEATURES: dict[str, Feature] = {}


def computed(name: str, problem: Problem) -> Value:
    """The named feature. It is kept with the problem, as `functools.cached_property` would, for the next row."""
    kept: dict[str, Value] = problem.__dict__.setdefault("features", {})
    if name not in kept:
        kept[name] = FEATURES[name].of(problem)
    return kept[name]


def _feature(one: str, many: str) -> Callable[[F], F]:
    """Lists a function under its name."""

    def named(of: F) -> F:
        FEATURES[of.__name__] = Feature(of, one, many)
        return of

    return named


def _number(size: Size) -> float:
    return size if isinstance(size, int) else math.inf


def _product(*sizes: Size) -> float:
    return math.prod(map(_number, sizes))


def _ratio(one: float, other: float) -> float:
    return one / other if other else math.inf


# Sizes.


@_feature("", "")
def dtype(problem: Problem) -> str:
    """The widest dtype, by name; 'integers' for all of these, signed or not."""
    return "integers" if problem.dtype.startswith(("int", "uint")) else problem.dtype


@_feature("dimension", "dimensions")
def rank(problem: Problem) -> float:
    """Spatial dimensions."""
    return problem.geometry.rank


@_feature("image", "images")
def images(problem: Problem) -> float:
    """Images in the batch."""
    return _number(problem.batch)


@_feature("group", "groups")
def groups(problem: Problem) -> float:
    """Groups of channels."""
    return problem.groups


@_feature("input channel", "input channels")
def inputs(problem: Problem) -> float:
    """Input channels of a group."""
    return problem.inputs


@_feature("output channel", "output channels")
def outputs(problem: Problem) -> float:
    """Output channels of a group."""
    return problem.outputs


@_feature("channel pair", "channel pairs")
def pairs(problem: Problem) -> float:
    """Pairs of an input and an output channel of a group."""
    return problem.inputs * problem.outputs


@_feature("tap", "taps")
def taps(problem: Problem) -> float:
    """The kernel's taps, over all dimensions."""
    return problem.taps


@_feature("tap in the longest dimension", "taps in the longest dimension")
def longest(problem: Problem) -> float:
    """The kernel's taps in the dimension that has most."""
    return max(problem.geometry.kernel)


@_feature("input position", "input positions")
def positions(problem: Problem) -> float:
    """Positions of an image of the input, over all dimensions."""
    return _product(*problem.geometry.input)


@_feature("input position in the batch", "input positions in the batch")
def batch_positions(problem: Problem) -> float:
    """Positions of all images of the input."""
    return _product(problem.batch, *problem.geometry.input)


@_feature("operation", "operations")
def work(problem: Problem) -> float:
    """Multiplications and additions, as in the definition."""
    return _number(problem.flops)


# Strides, and the blocks and phases into which they cut the kernel and the output.


@_feature("strided", "stride 1")
def strided(problem: Problem) -> bool:
    """A stride above 1: the definition puts zeros between the input's positions."""
    return any(s > 1 for s in problem.geometry.strides)


@_feature("strided in every dimension", "stride 1 in some dimension")
def all_strided(problem: Problem) -> bool:
    """Every stride above 1."""
    return min(problem.geometry.strides) > 1


@_feature("dilated", "undilated")
def dilated(problem: Problem) -> bool:
    """A dilation above 1: two neighbouring taps reach outputs that are not neighbours."""
    return any(d > 1 for d in problem.geometry.dilations)


@_feature("block of taps", "blocks of taps")
def blocks(problem: Problem) -> float:
    """Blocks of `strides` taps, over all dimensions. One: no output is reached by two taps."""
    return problem.block_count


@_feature("full blocks", "blocks not full")
def full(problem: Problem) -> bool:
    """No zeros fill up the blocks of taps."""
    return problem.padding_factor == 1


@_feature("position in blocks for each tap", "positions in blocks for each tap")
def fill(problem: Problem) -> float:
    """Positions in all blocks over taps: 1 if blocks are full; the rest is zeros, and extra work."""
    return problem.padding_factor


@_feature("phase", "phases")
def phases(problem: Problem) -> float:
    """Phases of a block that the kernel's extent reaches."""
    return problem.phase_count


@_feature("phase in all groups", "phases in all groups")
def group_phases(problem: Problem) -> float:
    """Phases times groups."""
    return problem.phase_count * problem.groups


@_feature("convolution for all phases", "convolutions for all phases")
def convolutions(problem: Problem) -> float:
    """Convolutions that give all phases: one if blocks of taps are full, else one for each phase."""
    return 1 if problem.padding_factor == 1 else problem.phase_count


@_feature("kernel equal to the stride", "kernel not equal to the stride")
def kernel_is_stride(problem: Problem) -> bool:
    """As many taps as the stride, in every dimension."""
    return problem.geometry.kernel == problem.geometry.strides


@_feature("kernel shorter than the stride in some dimension", "no phase without taps")
def gaps(problem: Problem) -> bool:
    """Some outputs are reached by no tap."""
    return problem.phase_count < problem.block_size


# Products and ratios of sizes.


@_feature("input channel times block of taps", "input channels times blocks of taps")
def output_terms(problem: Problem) -> float:
    """Terms that are summed for an element of the output, zeros in blocks included."""
    return problem.inputs * problem.block_count


@_feature("channel pair times block of taps", "channel pairs times blocks of taps")
def pair_blocks(problem: Problem) -> float:
    """Channel pairs of a group, times blocks of taps."""
    return problem.inputs * problem.outputs * problem.block_count


@_feature("kernel element in a group", "kernel elements in a group")
def weights(problem: Problem) -> float:
    """Elements of the kernel of a group: taps times channel pairs."""
    return problem.taps * problem.inputs * problem.outputs


@_feature("tap times output channel", "taps times output channels")
def tap_outputs(problem: Problem) -> float:
    """Taps times output channels of a group: the terms of an element of the input's gradient."""
    return problem.taps * problem.outputs


@_feature("tap times output channel for each input channel", "taps times output channels for each input channel")
def tap_outputs_per_input(problem: Problem) -> float:
    """Taps times output channels, over input channels."""
    return _ratio(problem.taps * problem.outputs, problem.inputs)


@_feature("input channel for each output channel", "input channels for each output channel")
def inputs_per_output(problem: Problem) -> float:
    """Input channels over output channels."""
    return _ratio(problem.inputs, problem.outputs)


@_feature("input channel for each block of taps", "input channels for each block of taps")
def inputs_per_block(problem: Problem) -> float:
    """Input channels over blocks of taps."""
    return _ratio(problem.inputs, problem.block_count)


@_feature("phase times output channel for each block", "phases times output channels for each block")
def phase_outputs_per_block(problem: Problem) -> float:
    """Phases times output channels, over blocks of taps."""
    return _ratio(problem.phase_count * problem.outputs, problem.block_count)


@_feature("tap for each input position", "taps for each input position")
def taps_per_position(problem: Problem) -> float:
    """Taps over positions of the input."""
    return _ratio(problem.taps, _product(*problem.geometry.input))


@_feature("tap for each output position", "taps for each output position")
def taps_per_output_position(problem: Problem) -> float:
    """Taps over positions of the output."""
    return _ratio(problem.taps, _product(*problem.geometry.output))


@_feature("kernel element for each element of input and output", "kernel elements for each of input and output")
def kernel_per_images(problem: Problem) -> float:
    """Elements of a group's kernel over elements of its input and uncropped blocks of output, in the batch."""
    channels = problem.inputs + problem.block_size * problem.outputs
    return _ratio(weights(problem), batch_positions(problem) * channels)


@_feature("kernel covers the input", "kernel does not cover the input")
def covering(problem: Problem) -> bool:
    """Kernel >= input in every dimension, or in any if no strided dimension has several positions."""
    g = problem.geometry
    sizes = [(k, _number(i), s) for k, i, s in zip(g.kernel, g.input, g.strides, strict=True)]
    apart = any(s > 1 and i > 1 for _, i, s in sizes)
    return (all if apart else any)(k >= i for k, i, _ in sizes)


# What needs more than a formula.


@_feature("known sizes", "unknown sizes")
def known(problem: Problem) -> bool:
    """Batch and input positions are known."""
    return batch_positions(problem) != math.inf


@_feature("position in a step of the TPU kernel", "positions in a step of the TPU kernel")
def step_positions(problem: Problem) -> float:
    """Positions that the TPU's Pallas kernel computes in a step; 0 where it copies or pads much.

    Stride 1: only if a tap's channels fill the lanes. Else taps are copied side by side, with no interleaving of phases
    to make up for it (8, 103x103, 107 to 120, k 7, s 1: 1791; lax 1056). Outputs that leave lanes empty: only from 512
    positions on, as the change of layout after them costs more (3, 10x10, 91 to 111, k 4, s 2: 26; lax 20).
    """
    from . import tpu_tiles  # a tenth of the time that importing jdeconv would take

    if not strided(problem) and tpu_tiles.joins_taps(problem.inputs):
        return 0
    call, tile = tpu_tiles.default_call(problem), tpu_tiles.tiles_for(problem)
    if isinstance(tile, str) or tpu_tiles.copied_ratio(tile, call) > tpu_tiles.MOST_COPIED:
        return 0
    if call.batch * call.height.blocks * call.width.blocks < tpu_tiles.ROWS and call.outputs % tpu_tiles.LANES:
        return 0
    return tile.images * tile.rows * min(tile.columns, call.width.blocks)
