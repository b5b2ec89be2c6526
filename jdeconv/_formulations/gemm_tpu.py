"""Kernel <= stride, so that no output is reached by two taps. For the TPU.

Where kernel = stride it is one matrix product with an axis for each dimension's taps: the compiler lays out such axes
better than it moves blocks into channels and back. Where gaps remain between blocks, each tap's product is dilated:
filling gaps with zeros is cheaper than convolving them. A single tap's gradients are products with a slice.
"""

import functools
import itertools
import math
import operator

import jax

from .._engine.engine import Engine
from .._geometry import Geometry, Size
from .._jax_operations import jnp, lax
from .._phase_geometry import block_geometry
from .blocks import join_output, pad, split_output, window


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """Each input position makes one block of outputs."""
    p, t, both = _letters(geometry.rank)
    if geometry.kernel == geometry.strides:
        x = pad(x, [(-low, -high) for low, high in _block_pads(geometry)])
        return join_output(_einsum(engine, f"n{p}gi,{t}ogi->n{both}go", x, w), geometry)
    x, w, g = _ungrouped(x), _ungrouped(w), "g" * (x.shape[-2] > 1)
    dilated = []
    for tap in itertools.product(*map(range, geometry.kernel)):
        product = _einsum(engine, f"n{p}{g}i,o{g}i->n{p}{g}o", x, w[tap])
        sizes = zip(tap, geometry.low, geometry.input, geometry.output, geometry.strides, strict=True)
        pads = [(t - low, o - 1 - (i - 1) * s - (t - low), s - 1) for t, low, i, o, s in sizes]
        channels = [(0, 0, 0)] * (product.ndim - 1 - geometry.rank)
        dilated.append(lax.pad(product, product.dtype.type(0), [(0, 0, 0), *pads, *channels]))
    y = functools.reduce(operator.add, dilated)  # exact: all but one of the terms are zero
    return y if g else y[..., None, :]


def input_grad(w: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """Each block of outputs makes one input position."""
    p, t, both = _letters(geometry.rank)
    if math.prod(geometry.kernel) > 1:
        return _einsum(engine, f"n{both}go,{t}ogi->n{p}gi", _split(y, geometry), w)
    g = "g" * (y.shape[-2] > 1)
    x = _einsum(engine, f"n{p}{g}o,{t}o{g}i->n{p}{g}i", _slice(_ungrouped(y), geometry), _ungrouped(w))
    return x if g else x[..., None, :]


def kernel_grad(x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The sum over input positions, each with its block of outputs."""
    p, t, both = _letters(geometry.rank)
    if math.prod(geometry.kernel) > 1:
        return _einsum(engine, f"n{p}gi,n{both}go->{t}ogi", x, _split(y, geometry))
    g = "g" * (y.shape[-2] > 1)
    w = _einsum(engine, f"n{p}{g}i,n{p}{g}o->o{g}i", _ungrouped(x), _slice(_ungrouped(y), geometry))
    return w.reshape(*geometry.kernel, y.shape[-1], -1, x.shape[-1])


def _einsum(engine: Engine, letters: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(letters, a, b, precision=engine.precision, preferred_element_type=engine.dtype)


def _letters(rank: int) -> tuple[str, str, str]:
    """The einsum letters of positions, of taps, and of both in turn."""
    p, t = "xyz"[:rank], "abc"[:rank]
    return p, t, "".join(map("".join, zip(p, t, strict=True)))


def _ungrouped(v: jax.Array) -> jax.Array:
    """`v` without the axis of a single group, with which the compiler's layout costs up to 14 times the cycles."""
    return v[..., 0, :] if v.shape[-2] == 1 else v


def _slice(y: jax.Array, geometry: Geometry) -> jax.Array:
    """The outputs that a kernel of one tap reaches. The TPU compiler aborts at a fusion of several such slices."""
    y = pad(y, [(max(low, 0), max(high, 0)) for low, high in zip(geometry.low, geometry.high, strict=True)])
    return window(y, [max(-low, 0) for low in geometry.low], geometry.input, geometry.strides)


def _split(y: jax.Array, geometry: Geometry) -> jax.Array:
    """The outputs as `(n, in1, k1, …, inn, kn, g, o)`."""
    return pad(split_output(y, geometry), [pads for cuts in _block_pads(geometry) for pads in (cuts, (0, 0))])


def _block_pads(geometry: Geometry) -> list[tuple[Size, Size]]:
    """How many input positions lie before the first block of outputs and after the last; negative: blocks do."""
    blocks = block_geometry(geometry)
    return list(zip(blocks.low, blocks.high, strict=True))
