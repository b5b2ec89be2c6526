"""An input of one position, as in a generator's first layer: each result is one product.

Every tap that reaches an output reaches one of its own. So the sums are over channels only, and in a gradient over taps
or the batch.
"""

import dataclasses

import jax

from .._engine.engine import Engine
from .._geometry import Geometry
from .._jax_operations import lax
from .blocks import patches


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The product gives each tap's output channels; padding puts them in their places."""
    reached, geometry = geometry.reaching, _of_reaching(geometry)
    rank, (o, groups, i) = geometry.rank, w.shape[-3:]
    y = engine.product(x, w[reached].reshape(-1, groups, i), "_gi,ogi->_go")
    y = y.reshape(x.shape[0], groups, *geometry.kernel, o).transpose(0, *range(2, rank + 2), 1, rank + 2)
    pads = [(-low, -high, d - 1) for low, high, d in zip(geometry.low, geometry.high, geometry.dilations, strict=True)]
    return lax.pad(y, y.dtype.type(0), [(0, 0, 0), *pads, (0, 0, 0), (0, 0, 0)])


def input_grad(w: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The sum over taps and output channels."""
    reached, geometry = geometry.reaching, _of_reaching(geometry)
    return engine.product(patches(y, geometry), w[reached].reshape(-1, *w.shape[-2:]), "_go,ogi->_gi")


def kernel_grad(x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The sum over the batch."""
    kernel, reached, geometry = geometry.kernel, geometry.reaching, _of_reaching(geometry)
    w = engine.product(patches(y, geometry), x, "_go,_gi->ogi")
    w = w.reshape(*geometry.kernel, y.shape[-1], *w.shape[-2:])
    others = [(r.start, k - r.stop, 0) for r, k in zip(reached, kernel, strict=True)]
    return lax.pad(w, w.dtype.type(0), [*others, *[(0, 0, 0)] * 3])


def _of_reaching(geometry: Geometry) -> Geometry:
    """The geometry of the kernel cut down to the taps that reach an output."""
    taps = geometry.reaching
    kernel = tuple(len(range(some.start, some.stop)) for some in taps)
    low = tuple(low - some.start * d for some, low, d in zip(taps, geometry.low, geometry.dilations, strict=True))
    return dataclasses.replace(geometry, kernel=kernel, low=low)
