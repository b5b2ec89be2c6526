"""Convolutions of stride 1 give the output's phases, which are interleaved: no zeros between the input's positions.

Where the stride divides the kernel, one convolution gives all phases as its channels, but for small images; else each
phase has one with just its own taps. Zeros could fill up the last block of taps, but they would make infinite inputs
undefined, and work.
"""

import functools
import operator
from typing import Any

import jax

from .._geometry import Geometry
from .._jax_operations import lax
from .._phases import block_geometry, phases
from .._plan.problem import Problem
from . import conv
from .blocks import (
    join_phases,
    kernel_from_blocks,
    kernel_to_blocks,
    output_from_blocks,
    output_to_blocks,
    split_phases,
    too_many_positions,
)
from .engine import Compute, Engine, Variants


def supports(problem: Problem) -> str | None:
    """Everything, but for a kernel dilated beyond all images."""
    return too_many_positions(problem)


def _fused_output(convolve: Compute, x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """Blocks of taps give blocks of outputs."""
    y = convolve(x, kernel_to_blocks(w, geometry), block_geometry(geometry), engine)
    return output_from_blocks(y, geometry)


def _output_apart(convolve: Compute, x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """A convolution for each phase, with just its own taps."""
    parts = [
        lax.full((x.shape[0], *alone.output, w.shape[-2], w.shape[-3]), 0, engine.sum_dtype)
        if alone.empty
        else engine.widened(convolve(x, w[taps], alone, engine))
        for taps, alone in phases(geometry)
    ]
    return join_phases(parts, geometry)


def _fused_input(convolve: Compute, w: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The convolution of stride 1 over blocks of outputs."""
    return convolve(kernel_to_blocks(w, geometry), output_to_blocks(y, geometry), block_geometry(geometry), engine)


def _input_apart(convolve: Compute, w: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The sum of convolutions of stride 1 over the output's phases."""
    parts = [
        engine.widened(convolve(w[taps], part, alone, engine.for_terms))
        for part, (taps, alone) in zip(split_phases(y, geometry), phases(geometry), strict=True)
        if not alone.empty
    ]
    zero = lax.full((y.shape[0], *geometry.input, *w.shape[-2:]), 0, engine.sum_dtype)
    return functools.reduce(operator.add, parts, zero)


def _fused_kernel(convolve: Compute, x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The kernel gradient of the convolution of stride 1, without window dilation."""
    return kernel_from_blocks(convolve(x, output_to_blocks(y, geometry), block_geometry(geometry), engine), geometry)


def _variants(forms: str, result: str, **ways: Any) -> dict[str, Compute]:
    """Each way with some variants of the convolution that it calls: 'fused, as lax' calls that of lax."""
    convolutions = {form: conv.VARIANTS[result][form] for form in forms.split(", ")}
    return {
        way if form == "plain" else f"{way}, {form}": functools.partial(compute, convolve)
        for way, compute in ways.items()
        for form, convolve in convolutions.items()
    }


# Convolutions of stride 1 leave no gaps that oneDNN would refuse.
VARIANTS: Variants = {
    "output": _variants("plain, for cuDNN, as lax", "output", fused=_fused_output, apart=_output_apart),
    "input": _variants("plain, as lax", "input", fused=_fused_input, apart=_input_apart),
    "kernel": _variants("plain, for oneDNN, for cuDNN, as lax", "kernel", fused=_fused_kernel),
}
