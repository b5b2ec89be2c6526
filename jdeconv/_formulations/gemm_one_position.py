"""An input of one position, as a generator's first layer has: each result is one product.

Every tap has an output of its own, if it reaches one at all, so that nothing is summed but channels, and in a gradient
taps or the batch.
"""

import dataclasses
from typing import TYPE_CHECKING

import jax

from .._geometry import Geometry
from .._jax_operations import lax
from .blocks import patches

if TYPE_CHECKING:
    from . import Engine


def applies(geometry: Geometry) -> bool:
    """A single position in each dimension, and an output that it reaches."""
    return geometry.input == (1,) * geometry.rank and 0 not in _reached(geometry)[1].kernel


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """The input's channels give those of the taps, which stand where they go."""
    reached, geometry = _reached(geometry)
    rank, (o, groups, i) = geometry.rank, w.shape[-3:]
    y = engine.product(x, w[reached].reshape(-1, groups, i), "_gi,ogi->_go")
    y = y.reshape(x.shape[0], groups, *geometry.kernel, o).transpose(0, *range(2, rank + 2), 1, rank + 2)
    pads = [(-low, -high, d - 1) for low, high, d in zip(geometry.low, geometry.high, geometry.dilations, strict=True)]
    return lax.pad(y, y.dtype.type(0), [(0, 0, 0), *pads, (0, 0, 0), (0, 0, 0)])


def input_grad(w: jax.Array, y: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """The sum over taps and their channels."""
    reached, geometry = _reached(geometry)
    return engine.product(patches(y, geometry), w[reached].reshape(-1, *w.shape[-2:]), "_go,ogi->_gi")


def kernel_grad(x: jax.Array, y: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """The sum over the batch."""
    kernel, (reached, geometry) = geometry.kernel, _reached(geometry)
    w = engine.product(patches(y, geometry), x, "_go,_gi->ogi")
    w = w.reshape(*geometry.kernel, y.shape[-1], *w.shape[-2:])
    others = [(r.start, k - r.stop, 0) for r, k in zip(reached, kernel, strict=True)]
    return lax.pad(w, w.dtype.type(0), [*others, *[(0, 0, 0)] * 3])


def _reached(geometry: Geometry) -> tuple[tuple[slice, ...], Geometry]:
    """The taps that have an output, and the geometry of a kernel of these alone."""
    sizes = list(zip(geometry.kernel, geometry.output, geometry.low, geometry.dilations, strict=True))
    taps = tuple(slice(max(-(-low // d), 0), min((out - 1 + low) // d + 1, k)) for k, out, low, d in sizes)
    kernel = tuple(len(range(r.start, r.stop)) for r in taps)
    low = tuple(low - r.start * d for r, (_, _, low, d) in zip(taps, sizes, strict=True))
    return taps, dataclasses.replace(geometry, kernel=kernel, low=low)
