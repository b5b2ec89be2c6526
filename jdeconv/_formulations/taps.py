"""Elementwise: shifted inputs times one block of taps each, added up. For few channels a group, as in depthwise.

XLA fuses each sum into one loop, where its grouped convolutions compute one output at a time.
"""

import functools
import itertools
import math
import operator
from typing import TYPE_CHECKING

import jax
from jax import lax

from .._geometry import Geometry
from .._problem import Problem
from .blocks import (
    holds_taps,
    interleaved,
    join_output,
    kernel_from_blocks,
    kernel_to_blocks,
    pad,
    split_output,
    strided_windows,
    unit,
    window,
)

if TYPE_CHECKING:
    from . import Engine

STRIPS = 8  # depthwise 64 on 4, 32x32: 0.9 ms; 1 strip 5.3, 16 strips 2.5
MOST_TERMS = 1024  # each one is an operation of the program: compiling as many takes seconds


def supports(problem: Problem) -> str | None:
    """As many terms as can be written out one by one."""
    terms = terms_of(problem)
    return None if terms <= MOST_TERMS else f"{terms} terms for each element; expected at most {MOST_TERMS}"


def terms_of(problem: Problem) -> int:
    """How many are written out for each element of the result."""
    return {
        "output": problem.blocks * problem.inputs,
        "input": problem.taps * problem.outputs,
        "kernel": problem.blocks,
    }[problem.result]


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """Each block of outputs is the sum over blocks of taps of the input before it; phases are an axis of the kernel."""
    blocks, rank = unit(geometry), geometry.rank
    o, groups, i = w.shape[-3:]
    w, held = kernel_to_blocks(w, geometry), holds_taps(geometry)
    # To output block q comes input position q + low - tap*dilation.
    x = pad(x, blocks.outer)
    terms = []
    for tap in itertools.product(*map(range, blocks.kernel)):
        starts = [e - 1 - t * d for e, t, d in zip(blocks.extent, tap, blocks.dilations, strict=True)]
        part = window(x, starts, blocks.output)
        part = part.reshape(x.shape[0], *interleaved(blocks.output, (1,) * rank), groups, 1, i)
        by_phase = interleaved((1,) * rank, geometry.phases)
        block = w[tap].reshape(*by_phase, o, groups, i).swapaxes(-2, -3)
        products = [engine.wide(part[..., c]) * engine.wide(block[..., c]) for c in range(i)]
        if not held[tap].all():
            products = [jax.numpy.where(held[tap].reshape(*by_phase, 1, 1), product, 0) for product in products]
        terms += products
    return join_output(functools.reduce(operator.add, terms), geometry)


def input_grad(w: jax.Array, y: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """The sum over taps of every stride-th output: strided reads cost less here than a sum over phases."""
    terms = []
    for tap, part in strided_windows(y, geometry):
        terms += [engine.wide(part[..., c, None]) * engine.wide(w[(*tap, c)]) for c in range(y.shape[-1])]
    return functools.reduce(operator.add, terms)


def kernel_grad(x: jax.Array, y: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """For each block of taps the sum over all positions of input times output, phase by phase."""
    blocks, rank = unit(geometry), geometry.rank
    n, groups, i, o = x.shape[0], *x.shape[-2:], y.shape[-1]
    pads = [pair for low, high in zip(blocks.low, blocks.high, strict=True) for pair in ((low, high), (0, 0))]
    y = pad(split_output(y, geometry), pads)
    x = engine.wide(x.reshape(n, *interleaved(blocks.input, (1,) * rank), groups, 1, i))
    taps = []
    for tap in itertools.product(*map(range, blocks.kernel)):
        starts = interleaved([t * d for t, d in zip(tap, blocks.dilations, strict=True)], (0,) * rank)
        part = window(y, starts, interleaved(blocks.input, geometry.phases))
        taps.append(_sum_of_rows(x, engine.wide(part[..., None])))
    stacked = jax.numpy.stack(taps)  # (taps, s1, …, sn, g, o, i)
    stacked = stacked.reshape(*blocks.kernel, math.prod(geometry.phases), groups, o, i)
    return kernel_from_blocks(stacked.swapaxes(-2, -3).reshape(*blocks.kernel, -1, groups, i), geometry)


def _sum_of_rows(x: jax.Array, y: jax.Array) -> jax.Array:
    """`x * y`, summed over batch and positions: dimensions 0, 1, 3, 5, … of as many as the spatial ones."""
    rows = x.shape[0] * x.shape[1]
    strips = STRIPS if isinstance(rows, int) else 1
    more = [(0, -rows % strips if strips > 1 else 0, 0)]

    def stripes(v: jax.Array) -> jax.Array:
        v = v.reshape(rows, *v.shape[2:])
        v = lax.pad(v, v.dtype.type(0), more + [(0, 0, 0)] * (v.ndim - 1))
        return v.reshape(strips, -1, *v.shape[1:])

    # Strips are added up as they are multiplied, so that few products go through memory.
    x, y = stripes(x), stripes(y)
    products = functools.reduce(operator.add, [x[strip] * y[strip] for strip in range(strips)])
    # The longest part of the sum is a product with ones: XLA CPU runs that 3 to 10 times faster than its reduction.
    flat = products.reshape(products.shape[0], -1)
    ones = lax.full((1, flat.shape[0]), 1, flat.dtype)
    rest = lax.dot(ones, flat, precision="highest").reshape(products.shape[1:])
    return rest.sum(tuple(range(1, rest.ndim - 3, 2)))
