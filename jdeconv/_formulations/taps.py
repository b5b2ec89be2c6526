"""Elementwise: shifted inputs times one block of taps each, added up. For few channels a group, as in depthwise.

XLA fuses each sum into one loop, where its grouped convolutions compute one output at a time.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jax

from .._geometry import Geometry
from .._jax_operations import jnp, lax
from .._problem import Problem
from .blocks import (
    holds_taps,
    interleaved,
    join_output,
    kernel_from_blocks,
    kernel_to_blocks,
    pad,
    places,
    split_output,
    strided_windows,
    unit,
    window,
)

if TYPE_CHECKING:
    from . import Engine

# Into so many strips are positions split that are added up.
STRIPS = 8  # depthwise 64 on 4, 32x32, k 4, s 2: 0.44 ms; 1 strip 1.04, 4 strips 0.46, 16 strips 0.52
STRIPS_OF_MANY = 4  # of more than 16 blocks of taps: depthwise 4 on 2, 14x14x14, k 6, s 2: 0.98 ms; 8 strips 1.46
# Up to so many terms of depthwise kernels, on as many channels as a vector register holds, are padded one by one in
# the loop that sums them: 64 on 4, 32x32, k 4, s 2: 0.15 ms, not 0.3; of more, LLVM tests each element for the ends.
FEW_TERMS, VECTOR = 4, 16
MOST_TERMS = 1024  # each one is an operation of the program: compiling as many takes seconds


def supports(problem: Problem) -> str | None:
    """As many terms as can be written out one by one."""
    terms = terms_of(problem)
    return None if terms <= MOST_TERMS else f"{terms} terms for each element; expected at most {MOST_TERMS}"


def terms_of(problem: Problem) -> int:
    """How many are written out for each element of the result."""
    return {
        "output": problem.block_count * problem.inputs,
        "input": problem.taps * problem.outputs,
        "kernel": problem.block_count,
    }[problem.result]


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """Each block of outputs is the sum over blocks of taps of the input before it; phases are an axis of the kernel."""
    blocks, rank = unit(geometry), geometry.rank
    o, groups, i = w.shape[-3:]
    w, held = kernel_to_blocks(w, geometry), holds_taps(geometry)
    taps = list(itertools.product(*map(range, blocks.kernel)))
    terms = []
    apart = len(taps) * i <= FEW_TERMS and o == 1 and groups >= VECTOR
    for tap, part in zip(taps, _inputs(x, taps, blocks, apart), strict=True):
        part = part.reshape(x.shape[0], *interleaved(blocks.output, (1,) * rank), groups, 1, i)
        by_phase = interleaved((1,) * rank, geometry.phases)
        block = w[tap].reshape(*by_phase, o, groups, i).swapaxes(-2, -3)
        products = [engine.wide(part[..., c]) * engine.wide(block[..., c]) for c in range(i)]
        if not held[tap].all():
            products = [jnp.where(held[tap].reshape(*by_phase, 1, 1), product, 0) for product in products]
        terms += products
    return join_output(functools.reduce(operator.add, terms), geometry)


def _inputs(x: jax.Array, taps: Sequence[tuple[int, ...]], blocks: Geometry, apart: bool) -> Iterator[jax.Array]:
    """For each tap, what it joins to the output's blocks."""
    if apart:
        yield from (pad(x, places(tap, blocks)) for tap in taps)
        return
    x = pad(x, blocks.outer)  # by a loop of its own, which costs as much as a small sum
    for tap in taps:
        starts = [e - 1 - t * d for e, t, d in zip(blocks.extent, tap, blocks.dilations, strict=True)]
        yield window(x, starts, blocks.output)


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
    y = pad(split_output(y, geometry), pads)[..., None]
    strips = STRIPS if math.prod(blocks.kernel) <= 16 else STRIPS_OF_MANY
    inputs = _strips(engine.wide(x.reshape(n, *interleaved(blocks.input, (1,) * rank), groups, 1, i)), strips)
    sums = []
    for tap in itertools.product(*map(range, blocks.kernel)):
        starts = interleaved([t * d for t, d in zip(tap, blocks.dilations, strict=True)], (0,) * rank)
        part = _strips(engine.wide(window(y, starts, interleaved(blocks.input, geometry.phases))), strips)
        # Strips are added up as they are multiplied, so that few products go through memory.
        sums.append(functools.reduce(operator.add, [a * b for a, b in zip(inputs, part, strict=True)]))
    # One loop for all taps: depthwise 64 on 4, 32x32, 0.4 ms, and 0.9 by a loop a tap, each of which is compiled.
    stacked = jnp.stack(sums, axis=1)
    # The longest part of the sum is a product with ones: XLA CPU runs that 3 to 10 times faster than its reduction.
    flat = stacked.reshape(stacked.shape[0], -1)
    ones = lax.full((1, flat.shape[0]), 1, flat.dtype)
    rest = lax.dot(ones, flat, precision="highest").reshape(stacked.shape[1:])
    rest = rest.sum(tuple(range(2, rest.ndim - 3, 2)))  # (taps, s1, …, sn, g, o, i)
    rest = rest.reshape(*blocks.kernel, math.prod(geometry.phases), groups, o, i)
    return kernel_from_blocks(rest.swapaxes(-2, -3).reshape(*blocks.kernel, -1, groups, i), geometry)


def _strips(v: jax.Array, most: int) -> list[jax.Array]:
    """The rows of all images, in more than half as many strips; one strip where their number is not known."""
    rows = v.shape[0] * v.shape[1]
    v = v.reshape(rows, *v.shape[2:])
    if not isinstance(rows, int):
        return [v]
    # Zeros fill up the last strip where no number divides the rows: what is padded goes through memory for each tap.
    strips = next((number for number in range(most, most // 2, -1) if rows % number == 0), most)
    if rows % strips:
        v = lax.pad(v, v.dtype.type(0), [(0, -rows % strips, 0), *[(0, 0, 0)] * (v.ndim - 1)])
    return list(v.reshape(strips, -1, *v.shape[1:]))
