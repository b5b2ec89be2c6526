"""`taps`, all terms of a sum written out: XLA fuses them into one loop."""

import functools
import itertools
import math
import operator
from collections.abc import Iterator, Sequence

import jax

from .._engine.engine import Engine
from .._geometry import Geometry
from .._jax_operations import jnp, lax
from .._phase_geometry import block_geometry
from .blocks import (
    interleaved,
    join_output,
    kernel_from_blocks,
    kernel_to_blocks,
    pad,
    split_output,
    strided_windows,
    tap_mask,
    tap_pads,
    window,
)

# The kernel gradient splits the positions that it sums into so many strips.
STRIPS = 8  # depthwise 64 on 4, 32x32, k 4, s 2: 0.44 ms; 1 strip 1.04, 4 strips 0.46, 16 strips 0.52
# So many taps share a loop, as XLA fuses no concatenation of more: depthwise 192 on 4, 28x28, k 9, s 1: 4 ms in loops
# of 8 taps; 25 ms with all 81 products in memory, most of it spent by the system on new pages.
TAPS_PER_LOOP = 8


def transpose_conv(
    x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine, padded_apart: bool = False
) -> jax.Array:
    """Each block of outputs sums shifted inputs times blocks of taps; the phases are an axis of the kernel."""
    blocks, rank = block_geometry(geometry), geometry.rank
    o, groups, i = w.shape[-3:]
    w, mask = kernel_to_blocks(w, geometry), tap_mask(geometry)
    taps = list(itertools.product(*map(range, blocks.kernel)))
    terms = []
    x = engine.materialised(x) if padded_apart else x
    for tap, part in zip(taps, _inputs(x, taps, blocks, padded_apart), strict=True):
        part = part.reshape(x.shape[0], *interleaved(blocks.output, (1,) * rank), groups, 1, i)
        by_phase = interleaved((1,) * rank, geometry.phases)
        block = w[tap].reshape(*by_phase, o, groups, i).swapaxes(-2, -3)
        products = [engine.widened(part[..., c]) * engine.widened(block[..., c]) for c in range(i)]
        if not mask[tap].all():
            products = [jnp.where(mask[tap].reshape(*by_phase, 1, 1), product, 0) for product in products]
        terms += products
    return join_output(functools.reduce(operator.add, terms), geometry)


def _inputs(x: jax.Array, taps: Sequence[tuple[int, ...]], blocks: Geometry, apart: bool) -> Iterator[jax.Array]:
    """For each tap, the input positions that it joins to the output's blocks."""
    if apart:
        yield from (pad(x, tap_pads(tap, blocks)) for tap in taps)
        return
    x = pad(x, blocks.outer)  # this is a loop of its own, which costs as much as a small sum
    for tap in taps:
        starts = [e - 1 - t * d for e, t, d in zip(blocks.extent, tap, blocks.dilations, strict=True)]
        yield window(x, starts, blocks.output)


def input_grad(w: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The sum over taps of every stride-th output: strided reads cost less here than a sum over phases."""
    terms = []
    for tap, part in strided_windows(y, geometry):
        terms += [engine.widened(part[..., c, None]) * engine.widened(w[(*tap, c)]) for c in range(y.shape[-1])]
    return functools.reduce(operator.add, terms)


def kernel_grad(x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """For each block of taps, the sum over positions of the input times the outputs it reaches, phase by phase."""
    blocks, rank = block_geometry(geometry), geometry.rank
    n, groups, i, o = x.shape[0], *x.shape[-2:], y.shape[-1]
    pads = [pair for low, high in zip(blocks.low, blocks.high, strict=True) for pair in ((low, high), (0, 0))]
    y = engine.widened(pad(split_output(engine.materialised(y), geometry), pads)[..., None])
    x = engine.widened(engine.materialised(x).reshape(n, *interleaved(blocks.input, (1,) * rank), groups, 1, i))
    taps = list(itertools.product(*map(range, blocks.kernel)))
    inputs, totals = _strips(x), []
    at_once = evenly(len(taps), TAPS_PER_LOOP)
    for start in range(0, len(taps), at_once):
        sums = []
        for tap in taps[start : start + at_once]:
            starts = interleaved([t * d for t, d in zip(tap, blocks.dilations, strict=True)], (0,) * rank)
            part = _strips(window(y, starts, interleaved(blocks.input, geometry.phases)))
            # Strips are added up as they are multiplied, so that few products go through memory.
            sums.append(functools.reduce(operator.add, [a * b for a, b in zip(inputs, part, strict=True)]))
        totals.append(_total(jnp.stack(sums, axis=1)))
    total = lax.concatenate(totals, 0).reshape(*blocks.kernel, math.prod(geometry.phases), groups, o, i)
    return kernel_from_blocks(total.swapaxes(-2, -3).reshape(*blocks.kernel, -1, groups, i), geometry)


def _total(products: jax.Array) -> jax.Array:
    """The sum over all positions, `(taps, r1, …, rn, g, o, i)`."""
    # Most of the sum is a product with ones, which XLA CPU runs 3 to 10 times faster than a reduction.
    ones = lax.full((products.shape[0],), 1, products.dtype)
    rest = lax.dot_general(ones, products, (((0,), (0,)), ((), ())), precision="highest")
    return rest.sum(tuple(range(1, rest.ndim - 3, 2)))


def _strips(v: jax.Array) -> list[jax.Array]:
    """The rows of all images in at most 8 (`STRIPS`) strips; one strip, the images, if sizes are symbolic."""
    if not (isinstance(v.shape[0], int) and isinstance(v.shape[1], int)):
        return [v]
    rows = v.shape[0] * v.shape[1]
    v = v.reshape(rows, 1, *v.shape[2:])
    # Strips divide the rows if any number does: rows padded to fill the last strip go through memory for each tap.
    strips = next((number for number in range(STRIPS, STRIPS // 2, -1) if rows % number == 0), min(STRIPS, rows))
    if rows % strips:
        v = lax.pad(v, v.dtype.type(0), [(0, -rows % strips, 0), *[(0, 0, 0)] * (v.ndim - 1)])
    return list(v.reshape(strips, -1, *v.shape[1:]))


def evenly(size: int, most: int) -> int:
    """The largest part, if `size` is divided into as few parts of up to `most` as there can be, as even as possible."""
    return -(-size // -(-size // most))
