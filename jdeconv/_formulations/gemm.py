"""Matrix products between channels, over all positions, for each block of taps; no convolution.

Where kernel = stride there is one block, and the transposed convolution is one matrix product and a reshape.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax

from .._geometry import Geometry
from .._problem import Problem
from .blocks import (
    fill,
    holds_taps,
    kernel_from_blocks,
    kernel_to_blocks,
    output_from_blocks,
    output_to_blocks,
    pad,
    strided_windows,
    unit,
    window,
)

if TYPE_CHECKING:
    from . import Engine


def supports(problem: Problem) -> str | None:
    """Everything."""
    return None


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """One product maps the input's channels to those of all taps; blocks of taps are added up where they go."""
    blocks, taps = unit(geometry), math.prod(geometry.kernel)
    o, groups, i = w.shape[-3:]
    # One product for all taps reads x once: 64 channels to 1 in 3-D, 155 ms against 237 for one each.
    products = engine.product(x, w.reshape(taps * o, groups, i), "_gi,ogi->_go")
    # Blocks are filled up after the products: a zero among the taps would make an infinite input undefined.
    products = products.reshape(*x.shape[:-1], *geometry.kernel, o)
    before = x.ndim - 1
    products = fill(products, before, geometry)
    parts = []
    for tap in _taps(blocks):
        # Position p goes to p + tap*dilation - low.
        starts = [t * d - low for t, d, low in zip(tap, blocks.dilations, blocks.low, strict=True)]
        pads = [(f, size - i - f) for f, size, i in zip(starts, blocks.output, blocks.input, strict=True)]
        one = [index for t in tap for index in (t, slice(None))]
        part = products[(*[slice(None)] * before, *one)]
        parts.append(pad(part.reshape(*x.shape[:-1], -1), pads))
    return output_from_blocks(functools.reduce(operator.add, parts), geometry)


def input_grad(w: jax.Array, y: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """The window of the output that each block of taps joins to the input; each tap, where blocks are not full."""
    if holds_taps(geometry).all():
        w = kernel_to_blocks(w, geometry)
        windows = _windows(y, geometry)
    else:
        windows = strided_windows(y, geometry)
    products = [engine.product(part, w[tap], "_go,ogi->_gi") for tap, part in windows]
    return functools.reduce(operator.add, products)


def kernel_grad(x: jax.Array, y: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """The input times each window of the output, over all positions."""
    taps = [engine.product(part, x, "_go,_gi->ogi") for _, part in _windows(y, geometry)]
    stacked = jax.numpy.stack(taps).reshape(*geometry.blocks, *taps[0].shape)
    return kernel_from_blocks(stacked, geometry)


def _taps(blocks: Geometry) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, blocks.kernel))


def _windows(y: jax.Array, geometry: Geometry) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
    """For each block of taps, the blocks of outputs that it joins to the input's positions."""
    blocks = unit(geometry)
    y = pad(output_to_blocks(y, geometry), list(zip(blocks.low, blocks.high, strict=True)))
    for tap in _taps(blocks):
        starts = [t * d for t, d in zip(tap, blocks.dilations, strict=True)]
        yield tap, window(y, starts, blocks.input)
