"""Convolutions of stride 1 give the output's phases, which are interleaved: no zeros between the input's positions.

Where the stride divides the kernel, one convolution gives all phases as its channels; else each phase has one with just
its own taps. Zeros could fill up the last block of taps, but they would make infinite inputs undefined, and work.
"""

import functools
import operator
from typing import TYPE_CHECKING

import jax
from jax import lax

from .._geometry import Geometry
from .._problem import Problem
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


def supports(problem: Problem) -> str | None:
    """Everything, but for a kernel dilated beyond all images."""
    return too_wide(problem)


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """Blocks of taps give blocks of outputs."""
    blocks = unit(geometry)
    if holds_taps(geometry).all():
        return output_from_blocks(conv.transpose_conv(x, kernel_to_blocks(w, geometry), blocks, engine), geometry)
    parts = [
        lax.full((x.shape[0], *alone.output, w.shape[-2], w.shape[-3]), 0, engine.sums)
        if alone.empty
        else engine.wide(conv.transpose_conv(x, w[taps], alone, engine))
        for taps, alone in phases(geometry)
    ]
    return join_phases(parts, geometry)


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
