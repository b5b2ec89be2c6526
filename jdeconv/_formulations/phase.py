"""Convolutions of stride 1 give the output's phases, which are interleaved: no zeros between the input's positions.

Fused: one convolution gives all phases as its channels. Apart: each phase has a convolution with just its own taps.
Where blocks of taps are not full, fusing would fill them with zeros, which make work, and make infinite inputs
undefined.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax

from .._engine.engine import Engine
from .._geometry import Geometry
from .._jax_operations import lax
from .._phase_geometry import block_geometry, phases
from . import lax_conv
from .blocks import (
    join_phases,
    kernel_from_blocks,
    kernel_to_blocks,
    output_from_blocks,
    output_to_blocks,
    split_phases,
    too_many_positions,
)
from .formulation import Compute, Variants

supports = too_many_positions


def _fused_output(convolve: Compute, x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """One convolution of stride 1: blocks of taps give blocks of outputs."""
    y = convolve(x, kernel_to_blocks(w, geometry), block_geometry(geometry), engine)
    return output_from_blocks(y, geometry)


def _output_apart(convolve: Compute, x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """A convolution for each phase, with just its own taps."""
    parts = [
        lax.full((x.shape[0], *one_phase.output, w.shape[-2], w.shape[-3]), 0, engine.sum_dtype)
        if one_phase.empty
        else engine.widened(convolve(x, w[taps], one_phase, engine))
        for taps, one_phase in phases(geometry)
    ]
    return join_phases(parts, geometry)


def _fused_input(convolve: Compute, w: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """One convolution of stride 1 over blocks of outputs."""
    return convolve(kernel_to_blocks(w, geometry), output_to_blocks(y, geometry), block_geometry(geometry), engine)


def _input_apart(convolve: Compute, w: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The sum of convolutions of stride 1 over the output's phases."""
    parts = [
        engine.widened(convolve(w[taps], part, one_phase, engine.for_terms))
        for part, (taps, one_phase) in zip(split_phases(y, geometry), phases(geometry), strict=True)
        if not one_phase.empty
    ]
    zero = lax.full((y.shape[0], *geometry.input, *w.shape[-2:]), 0, engine.sum_dtype)
    return functools.reduce(operator.add, parts, zero)


def _fused_kernel(convolve: Compute, x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The kernel gradient of the convolution of stride 1, without window dilation."""
    return kernel_from_blocks(convolve(x, output_to_blocks(y, geometry), block_geometry(geometry), engine), geometry)


def _variants(result: str, forms: Sequence[str], **ways: Any) -> dict[str, Compute]:
    """Each way with each variant of the convolution it calls: 'fused, as lax' calls the convolution 'as lax'."""
    return {
        way if form == "plain" else f"{way}, {form}": functools.partial(compute, lax_conv.VARIANTS[result][form])
        for way, compute in ways.items()
        for form in forms
    }


# Input gradients have no variant for oneDNN: at stride 1 there are no gaps that it would refuse.
VARIANTS: Variants = {
    "output": _variants("output", ("plain", "for cuDNN", "as lax"), fused=_fused_output, apart=_output_apart),
    "input": _variants("input", ("plain", "as lax"), fused=_fused_input, apart=_input_apart),
    "kernel": _variants("kernel", ("plain", "for oneDNN", "for cuDNN", "as lax"), fused=_fused_kernel),
}
