"""Convolutions of stride 1 give the output's phases, which are interleaved: no zeros between the input's positions.

Where the stride divides the kernel, one convolution gives all phases as its channels, but for small images; else each
phase has one with just its own taps. Zeros could fill up the last block of taps, but they would make infinite inputs
undefined, and work.
"""

import functools
import math
import operator
from typing import TYPE_CHECKING

import jax

from .._geometry import Geometry
from .._jax_operations import lax
from .._plan.problem import Problem
from . import conv
from .blocks import (
    holds_taps,
    join_phases,
    kernel_from_blocks,
    kernel_to_blocks,
    output_from_blocks,
    output_to_blocks,
    phases,
    split_phases,
    too_wide,
    unit,
)

if TYPE_CHECKING:
    from . import Engine


# 8, 4x4x4, 128 to 128, k 4, s 2: phases apart 4.9 ms, not 8.1; 16, 8x8, 512 to 256: 19, not 22; of less excess, as in
# 16, 16x16, 256 to 128: 24, not 21; of few operations 8, 14x14, 64 to 32: 0.9, not 0.7.
EXCESS, MANY, MUCH = 1.14, 64, 5e8  # positions over outputs, output channels, operations


def supports(problem: Problem) -> str | None:
    """Everything, but for a kernel dilated beyond all images."""
    return too_wide(problem)


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """Blocks of taps give blocks of outputs."""
    if holds_taps(geometry).all() and not _exceed_output(x, w, geometry, engine):
        y = conv.transpose_conv(x, kernel_to_blocks(w, geometry), unit(geometry), engine)
        return output_from_blocks(y, geometry)
    parts = [
        lax.full((x.shape[0], *alone.output, w.shape[-2], w.shape[-3]), 0, engine.sums)
        if alone.empty
        else engine.wide(conv.transpose_conv(x, w[taps], alone, engine))
        for taps, alone in phases(geometry)
    ]
    return join_phases(parts, geometry)


def _exceed_output(x: jax.Array, w: jax.Array, geometry: Geometry, engine: "Engine") -> bool:
    """Whether blocks reach so far beyond the output that phases apart, which do not, pay for their many calls."""
    n, o = x.shape[0], w.shape[-3]
    outputs, sums = n * math.prod(geometry.output), o * w.shape[-1]
    if engine.platform != "cpu" or not isinstance(outputs, int) or not isinstance(sums, int):
        return False
    blocks = n * math.prod(map(operator.mul, unit(geometry).output, geometry.strides))
    operations = 2 * outputs * math.prod(geometry.blocks) * w.shape[-2] * sums
    much = operations > MUCH and o >= MANY and math.prod(geometry.phases) <= 9
    return much and blocks > EXCESS * outputs


def input_grad(w: jax.Array, y: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """The convolutions of stride 1 over blocks of outputs, or over their phases."""
    if holds_taps(geometry).all():
        return conv.input_grad(kernel_to_blocks(w, geometry), output_to_blocks(y, geometry), unit(geometry), engine)
    parts = [
        engine.wide(conv.input_grad(w[taps], part, alone, engine.summing))
        for part, (taps, alone) in zip(split_phases(y, geometry), phases(geometry), strict=True)
        if not alone.empty
    ]
    zero = lax.full((y.shape[0], *geometry.input, *w.shape[-2:]), 0, engine.sums)
    return functools.reduce(operator.add, parts, zero)


def kernel_grad(x: jax.Array, y: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """The kernel gradient of that one, without window dilation."""
    return kernel_from_blocks(conv.kernel_grad(x, output_to_blocks(y, geometry), unit(geometry), engine), geometry)
