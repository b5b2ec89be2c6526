"""Matrix products between channels, over all positions, for each block of taps; no convolution.

Where kernel = stride there is one block: the transposed convolution is one matrix product and a reshape. With an input
of one position, every result is one product.

On GPU a gradient is one product with a matrix of patches, which compiles in a second. Hundreds of products, which XLA
fuses with their windows, take minutes.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterator

import jax

from .._engine.engine import Engine
from .._geometry import Geometry
from .._jax_operations import jnp, lax
from .._phase_geometry import block_geometry, phases
from . import gemm_one_position, gemm_tpu
from .blocks import (
    gather,
    join_phases,
    kernel_from_blocks,
    kernel_to_blocks,
    output_from_blocks,
    output_to_blocks,
    pad,
    pad_for_slices,
    patches,
    split_taps,
    strided_windows,
    tap_mask,
    tap_pads,
    too_many_positions,
    window,
)
from .formulation import Variants

supports = too_many_positions


def _by_blocks(x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """One product for all taps; then each block of taps is added where it goes in the output."""
    blocks, taps = block_geometry(geometry), math.prod(geometry.kernel)
    o, groups, i = w.shape[-3:]
    # One product for all taps reads x once: 64 channels to 1 in 3-D: 155 ms; a product a tap 237.
    products = engine.product(x, w.reshape(taps * o, groups, i), "_gi,ogi->_go")
    before = x.ndim - 1
    products = split_taps(products.reshape(*x.shape[:-1], *geometry.kernel, o), before, geometry)
    parts = []
    for tap in _taps(blocks):
        one = [index for t in tap for index in (t, slice(None))]
        part = products[(*[slice(None)] * before, *one)]
        parts.append(pad(part.reshape(*x.shape[:-1], -1), tap_pads(tap, blocks)))
    return output_from_blocks(functools.reduce(operator.add, parts), geometry)


def _by_phases_positions_last(x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """Phase by phase, each with just its own taps; positions last, as rows of few channels would be short."""
    taps, rank = math.prod(geometry.kernel), geometry.rank
    o, groups, i = w.shape[-3:]
    products = engine.product(w.reshape(taps * o, groups, i), x, "ogi,_gi->go_")
    products = products.reshape(groups, *geometry.kernel, o, *x.shape[:-2])
    positions_first = (*range(2, rank + 3), 0, 1)
    parts = _sums(products, 1, 3, geometry)
    return join_phases([part.transpose(positions_first) for part in parts], geometry)


def _by_phases(x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """Phase by phase, each with just its own taps; positions first, as in oneDNN."""
    taps, (o, groups, i) = math.prod(geometry.kernel), w.shape[-3:]
    products = engine.product(x, w.reshape(taps * o, groups, i), "_gi,ogi->_go")
    products = products.reshape(*x.shape[:-1], *geometry.kernel, o)
    return join_phases(_sums(products, geometry.rank + 2, 1, geometry), geometry)


def _sums(products: jax.Array, taps_axis: int, positions_axis: int, geometry: Geometry) -> list[jax.Array]:
    """For each phase, the sum of its taps' products.

    The axes of taps begin at `taps_axis`. Once they are gone, positions begin at `positions_axis`.
    """
    before, rank = (slice(None),) * taps_axis, geometry.rank
    shape = [*products.shape[:taps_axis], *products.shape[taps_axis + rank :]]
    sums = []
    for taps_of_phase, one_phase in phases(geometry):
        shape[positions_axis : positions_axis + rank] = one_phase.output
        terms = [jnp.zeros(shape, products.dtype)]
        for tap in () if one_phase.empty else _taps(one_phase):
            pads = [(0, 0, 0)] * len(shape)
            pads[positions_axis : positions_axis + rank] = [(*pair, 0) for pair in tap_pads(tap, one_phase)]
            terms.append(lax.pad(products[*before, *taps_of_phase][*before, *tap], products.dtype.type(0), pads))
        sums.append(functools.reduce(operator.add, terms))
    return sums


def _input_by_windows(w: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The sum over blocks of taps, or over taps if blocks are not full: each times the output's window it reaches."""
    if tap_mask(geometry).all():
        w = kernel_to_blocks(w, geometry)
        windows = _windows(y, geometry)
    else:
        windows = strided_windows(y, geometry)
    products = [engine.product(part, w[tap], "_go,ogi->_gi") for tap, part in windows]
    return functools.reduce(operator.add, products)


def _input_by_patches(w: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """One product with a matrix of patches."""
    return engine.product(patches(y, geometry), w.reshape(-1, *w.shape[-2:]), "_go,ogi->_gi")


def _kernel_by_windows(x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """For each block of taps, the input times its window of the output, summed over positions."""
    y = engine.materialised(y) if math.prod(geometry.blocks) > 2 else y
    taps = [engine.product(part, x, "_go,_gi->ogi") for _, part in _windows(y, geometry)]
    stacked = jnp.stack(taps).reshape(*geometry.blocks, *taps[0].shape)
    return kernel_from_blocks(stacked, geometry)


def _kernel_by_patches(x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """One product with a matrix of patches."""
    product = engine.product(patches(y, geometry), x, "_go,_gi->ogi")
    return product.reshape(*geometry.kernel, y.shape[-1], *product.shape[-2:])


def _kernel_by_patches_positions_last(x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """One product with a matrix of patches whose positions come last."""
    rank, (groups, o) = geometry.rank, y.shape[-2:]
    y = pad(y, list(zip(geometry.low, geometry.high, strict=True)))
    columns = y.transpose(-2, -1, *range(rank + 1))
    sizes = zip(geometry.input, geometry.kernel, geometry.strides, geometry.dilations, strict=True)
    # One dimension at a time needs fewer slices: each is a loop to compile and a pass through memory.
    for dim, (i, k, s, d) in reversed(list(enumerate(sizes))):
        axis = columns.ndim - rank + dim
        if rank < 3 or dim == rank - 1:
            columns, (end,) = pad_for_slices(columns, axis, (0,), (i,), (s,))
            windows = [lax.slice_in_dim(columns, t * d, t * d + end, s, axis) for t in range(k)]
            columns = jnp.stack(windows, axis=1)
        else:  # a gather moves whole rows as fast: 1, 64x64x32, 64 to 1, k 3, s 2, compiled in 62 ms, not 272
            reached = jnp.arange(k)[:, None] * d + jnp.arange(i) * s
            columns = jnp.moveaxis(gather(columns, reached, axis), axis, 1)
    w = engine.product(columns.reshape(groups, -1, *columns.shape[-rank - 1 :]), x, "go_,_gi->goi")
    return w.reshape(groups, *geometry.kernel, o, x.shape[-1]).transpose(*range(1, rank + 2), 0, -1)


def _taps(blocks: Geometry) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, blocks.kernel))


def _windows(y: jax.Array, geometry: Geometry) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
    """For each block of taps, the blocks of outputs that it joins to the input's positions."""
    blocks = block_geometry(geometry)
    y = pad(output_to_blocks(y, geometry), list(zip(blocks.low, blocks.high, strict=True)))
    for tap in _taps(blocks):
        starts = [t * d for t, d in zip(tap, blocks.dilations, strict=True)]
        yield tap, window(y, starts, blocks.input)


VARIANTS: Variants = {
    "output": {
        "one position": gemm_one_position.transpose_conv,
        "one block": gemm_tpu.transpose_conv,
        "blocks": _by_blocks,
        "phases, positions last": _by_phases_positions_last,
        "phases": _by_phases,
    },
    "input": {
        "one position": gemm_one_position.input_grad,
        "one block": gemm_tpu.input_grad,
        "windows": _input_by_windows,
        "patches": _input_by_patches,
    },
    "kernel": {
        "one position": gemm_one_position.kernel_grad,
        "one block": gemm_tpu.kernel_grad,
        "windows": _kernel_by_windows,
        "patches": _kernel_by_patches,
        "patches, positions last": _kernel_by_patches_positions_last,
    },
}
