"""One matrix product for each block of taps, between channels, over all positions; no convolution.

Where kernel = stride there is one block, and the transposed convolution is one matrix product and a reshape.
"""

import functools
import itertools
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
from jax import lax

from .._geometry import Geometry
from .._problem import Problem
from .blocks import kernel_from_blocks, kernel_to_blocks, output_from_blocks, output_to_blocks, pad, unit, window

if TYPE_CHECKING:
    from . import Engine


def supports(problem: Problem) -> str | None:
    """Everything; a dilated kernel of stride above 1 is filled up with zeros."""
    return None


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """One product maps the input's channels to those of all taps; blocks of taps are added up where they go."""
    blocks = unit(geometry)
    w = kernel_to_blocks(w, geometry)
    taps, outputs = list(_taps(blocks)), w.shape[-3]
    # One product for all blocks reads x once: 64 channels to 1 in 3-D, 155 ms against 237 for one each.
    products = engine.product(x, w.reshape(-1, *w.shape[-2:]), "_gi,ogi->_go")
    parts = []
    for number, tap in enumerate(taps):
        # Position p goes to p + tap*dilation - low.
        starts = [t * d - low for t, d, low in zip(tap, blocks.dilations, blocks.low, strict=True)]
        pads = [(f, o - i - f) for f, o, i in zip(starts, blocks.output, blocks.input, strict=True)]
        parts.append(pad(lax.slice_in_dim(products, number * outputs, (number + 1) * outputs, axis=-1), pads))
    return output_from_blocks(functools.reduce(operator.add, parts), geometry)


def input_grad(w: jax.Array, y: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """The windows of the output, one for each block of taps, back to the input's channels."""
    w = kernel_to_blocks(w, geometry)
    products = [engine.product(part, w[tap], "_go,ogi->_gi") for tap, part in _windows(y, geometry)]
    return functools.reduce(operator.add, products)


def kernel_grad(x: jax.Array, y: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """The input times each window of the output, over all positions."""
    taps = [engine.product(part, x, "_go,_gi->ogi") for _, part in _windows(y, geometry)]
    stacked = jax.numpy.stack(taps).reshape(*unit(geometry).kernel, *taps[0].shape)
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
