"""Arrays cut into blocks of taps and blocks of outputs, whose sizes `_phase_geometry` has; and windows of them."""

import dataclasses
import itertools
import math
import operator
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from .._geometry import Geometry, Size, surely_positive
from .._jax_operations import jnp, lax
from .._phase_geometry import block_counts, block_geometry, block_offset, phase_offset
from .._plan.problem import Problem

MOST_POSITIONS = 2**24  # of a kernel's blocks: the program holds a mask of them, a byte each


def too_many_positions(problem: Problem) -> str | None:
    """Why a kernel can't be padded to full blocks; None if it can."""
    positions = problem.block_count * problem.phase_count
    if positions <= MOST_POSITIONS:
        return None
    return f"{positions} positions from the kernel's first tap to its last; expected at most {MOST_POSITIONS}"


def tap_mask(geometry: Geometry) -> np.ndarray:
    """`(*blocks, r1*…*rn)`: True where a block has a tap, False where it has a zero that fills it up.

    An infinite or undefined input times such a zero would spread to outputs that the input does not reach.
    """
    rank, mask = geometry.rank, np.ones((), bool)
    sizes = zip(geometry.blocks, geometry.phases, geometry.strides, geometry.kernel, geometry.dilations, strict=True)
    for b, r, s, k, d in sizes:
        taps = np.arange(k) * (1 if s == 1 else d)
        mask = np.logical_and.outer(mask, np.isin(np.arange(b * r), taps).reshape(b, r))
    return mask.transpose(_blocks_first(rank)).reshape(*mask.shape[::2], -1)


def split_taps(array: jax.Array, first: int, geometry: Geometry) -> jax.Array:
    """Splits each axis of taps, from axis `first` on, into blocks and the phases in them; zeros where no tap is."""
    blocks, phased = geometry.blocks, geometry.phases
    pads = [
        (0, 0, 0) if s == 1 else (0, b * r - e, d - 1)
        for b, s, r, e, d in zip(blocks, geometry.strides, phased, geometry.extent, geometry.dilations, strict=True)
    ]
    after = array.shape[first + geometry.rank :]
    filled = lax.pad(array, array.dtype.type(0), [*[(0, 0, 0)] * first, *pads, *[(0, 0, 0)] * len(after)])
    return filled.reshape(*array.shape[:first], *interleaved(blocks, phased), *after)


def kernel_to_blocks(w: jax.Array, geometry: Geometry) -> jax.Array:
    """`(*k, o, g, i)` as `(*blocks, r1*…*rn*o, g, i)`."""
    rank, (o, *rest) = geometry.rank, w.shape[-3:]
    w = split_taps(w, 0, geometry).transpose(*_blocks_first(rank), *range(2 * rank, 2 * rank + 3))
    return w.reshape(*w.shape[:rank], math.prod(geometry.phases) * o, *rest)


def kernel_from_blocks(w: jax.Array, geometry: Geometry) -> jax.Array:
    """The inverse of `kernel_to_blocks`; drops what is not a tap."""
    rank, strides, blocks, phased = geometry.rank, geometry.strides, geometry.blocks, geometry.phases
    w = w.reshape(*blocks, *phased, w.shape[-3] // math.prod(phased), *w.shape[-2:])
    w = w.transpose(*_interleave(rank), *range(2 * rank, 2 * rank + 3))
    w = w.reshape(*map(operator.mul, blocks, phased), *w.shape[-3:])
    steps = [1 if s == 1 else d for s, d in zip(strides, geometry.dilations, strict=True)]
    ends = [k if s == 1 else e for k, s, e in zip(geometry.kernel, strides, geometry.extent, strict=True)]
    return lax.slice(w, (0,) * w.ndim, (*ends, *w.shape[-3:]), (*steps, 1, 1, 1))


def output_to_blocks(y: jax.Array, geometry: Geometry) -> jax.Array:
    """`(n, *out, g, o)` as `(n, *blocks, g, r1*…*rn*o)`."""
    rank, blocks, phased = geometry.rank, block_geometry(geometry).output, geometry.phases
    n, groups, o = y.shape[0], *y.shape[-2:]
    y = _into_channels(split_output(y, geometry), rank)
    return y.reshape(n, *blocks, groups, math.prod(phased) * o)


def output_from_blocks(y: jax.Array, geometry: Geometry) -> jax.Array:
    """The inverse of `output_to_blocks`; drops positions beyond the output's ends."""
    rank, blocks, phased = geometry.rank, block_geometry(geometry).output, geometry.phases
    n, groups = y.shape[0], y.shape[-2]
    y = y.reshape(n, *blocks, groups, *phased, y.shape[-1] // math.prod(phased))
    pairs = [axis for dim in range(rank) for axis in (1 + dim, rank + 2 + dim)]
    return join_output(y.transpose(0, *pairs, rank + 1, 2 * rank + 2), geometry)


def split_output(y: jax.Array, geometry: Geometry, offset: Sequence[int] | None = None) -> jax.Array:
    """`(n, *out, g, o)` as `(n, block1, r1, …, blockn, rn, g, o)`, padded with zeros to whole blocks.

    The blocks start `offset` positions before the output; by default at the first tap's phase.
    """
    rank, strides, offset = geometry.rank, geometry.strides, block_offset(geometry) if offset is None else offset
    blocks = block_counts(geometry, offset)
    last = [b * s - o - f for b, s, o, f in zip(blocks, strides, geometry.output, offset, strict=True)]
    y = pad(y, list(zip(offset, last, strict=True)))
    y = y.reshape(y.shape[0], *interleaved(blocks, strides), *y.shape[-2:])
    return window(y, (0,) * 2 * rank, interleaved(blocks, geometry.phases))


def join_output(y: jax.Array, geometry: Geometry, offset: Sequence[int] | None = None) -> jax.Array:
    """The inverse of `split_output`; phases that no tap reaches are zero."""
    offset = block_offset(geometry) if offset is None else offset
    y = pad(y, [pair for s, r in zip(geometry.strides, geometry.phases, strict=True) for pair in ((0, 0), (0, s - r))])
    sizes = map(operator.mul, block_counts(geometry, offset), geometry.strides)
    return window(y.reshape(y.shape[0], *sizes, *y.shape[-2:]), offset, geometry.output)


def split_phases(y: jax.Array, geometry: Geometry) -> list[jax.Array]:
    """The phases of the output, each `(n, *blocks, g, o)`."""
    y = _into_channels(split_output(y, geometry, phase_offset(geometry)), geometry.rank)
    y = y.reshape(*y.shape[: geometry.rank + 2], -1, y.shape[-1])
    return [y[..., number, :] for number in range(y.shape[-2])]


def join_phases(parts: Sequence[jax.Array], geometry: Geometry) -> jax.Array:
    """The inverse of `split_phases`."""
    parts = [
        part.reshape(part.shape[0], *interleaved(part.shape[1:-2], (1,) * geometry.rank), *part.shape[-2:])
        for part in parts
    ]
    for dim, many in reversed(list(enumerate(geometry.phases))):
        parts = [lax.concatenate(parts[i : i + many], 2 + 2 * dim) for i in range(0, len(parts), many)]
    return join_output(parts[0], geometry, phase_offset(geometry))


def without_gaps(y: jax.Array, geometry: Geometry) -> tuple[jax.Array, Geometry]:
    """Only the outputs that some tap reaches, and their geometry, whose strides don't exceed the kernel's extent.

    >>> from jdeconv._geometry import build
    >>> without_gaps(jax.numpy.arange(8.0).reshape(1, 8, 1, 1), build((2,), (2,), (4,), (1,), "VALID", (8,)))[0].ravel()
    Array([0., 1., 4., 5.], dtype=float32)
    """
    gaps = [e < s for e, s in zip(geometry.extent, geometry.strides, strict=True)]
    if not any(gaps):
        return y, geometry
    sizes = list(zip(gaps, geometry.phases, geometry.strides, geometry.low, strict=True))
    # In a dimension without gaps, each position is a block of its own.
    y = split_output(y, dataclasses.replace(geometry, strides=tuple(s if gap else 1 for gap, _, s, _ in sizes)))
    output = tuple(map(operator.mul, y.shape[1:-2:2], y.shape[2:-2:2]))
    low = tuple(low // s * r if gap else low for gap, r, s, low in sizes)
    reached = dataclasses.replace(geometry, output=output, strides=geometry.phases, low=low)
    return y.reshape(y.shape[0], *output, *y.shape[-2:]), reached


def pad(x: jax.Array, pads: Sequence[tuple[int, int]]) -> jax.Array:
    """Pads the dimensions after the first with zeros; negative pads cut."""
    pads = [(0, 0), *pads, *[(0, 0)] * (x.ndim - 1 - len(pads))]
    return lax.pad(x, x.dtype.type(0), [(low, high, 0) for low, high in pads])


def tap_pads(tap: tuple[int, ...], blocks: Geometry) -> list[tuple[int, int]]:
    """The pads that move input positions to where a tap of stride 1 sends them: p to p + tap*dilation - low."""
    starts = [t * d - low for t, d, low in zip(tap, blocks.dilations, blocks.low, strict=True)]
    return [(f, size - i - f) for f, size, i in zip(starts, blocks.output, blocks.input, strict=True)]


def window(
    x: jax.Array, starts: Sequence[int], sizes: Sequence[int], strides: Sequence[int] | None = None
) -> jax.Array:
    """A slice of the dimensions after the first: `sizes` elements from `starts` on, `strides` apart."""
    steps = strides or (1,) * len(sizes)
    x, ends = pad_for_slices(x, 1, starts, sizes, steps)
    rest = x.shape[1 + len(sizes) :]
    return lax.slice(x, (0, *starts, *(0 for _ in rest)), (x.shape[0], *ends, *rest), (1, *steps, *(1 for _ in rest)))


def pad_for_slices(
    x: jax.Array, axis: int, starts: Sequence[int], sizes: Sequence[Size], steps: Sequence[int]
) -> tuple[jax.Array, list[Size]]:
    """`x`, padded so that it can be sliced from `axis` on, and where slices of `sizes` elements, `steps` apart, end.

    A symbolic size may be 0, which puts its last element before the start: its slice ends a whole step later, in zeros.
    """
    ends, more = [], [(0, 0, 0)] * x.ndim
    for dim, (start, size, step) in enumerate(zip(starts, sizes, steps, strict=True)):
        whole = step > 1 and not surely_positive(size)
        ends.append(start + (size * step if whole else (size - 1) * step + 1))
        more[axis + dim] = (0, step - 1 if whole else 0, 0)
    return lax.pad(x, x.dtype.type(0), more) if any(map(any, more)) else x, ends


def strided_windows(y: jax.Array, geometry: Geometry) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
    """For each tap, the outputs `(n, *in, g, o)` that it joins to the input's positions; zeros beyond the ends."""
    y = pad(y, list(zip(geometry.low, geometry.high, strict=True)))
    for tap in itertools.product(*map(range, geometry.kernel)):
        starts = [t * d for t, d in zip(tap, geometry.dilations, strict=True)]
        yield tap, window(y, starts, geometry.input, geometry.strides)


def patches(y: jax.Array, geometry: Geometry) -> jax.Array:
    """`(n, *in, g, k1*…*kn*o)`: `strided_windows` side by side, by a gather a dimension (one position: a slice)."""
    n, groups, o = y.shape[0], *y.shape[-2:]
    y = pad(y, list(zip(geometry.low, geometry.high, strict=True)))
    sizes = zip(geometry.input, geometry.kernel, geometry.strides, geometry.dilations, strict=True)
    for dim, (i, k, s, d) in enumerate(sizes):
        axis = 1 + 2 * dim
        if i == 1:  # 16, 4x4x1024 to 1x1 on CPU: 0.4 ms with the product, by gathers 0.7
            y = jnp.expand_dims(lax.slice_in_dim(y, 0, (k - 1) * d + 1, d, axis), axis)
            continue
        reached = jnp.arange(i)[:, None] * s + jnp.arange(k) * d
        y = gather(y, reached, axis)
    return _into_channels(y, geometry.rank).reshape(n, *geometry.input, groups, math.prod(geometry.kernel) * o)


def gather(x: jax.Array, where: jax.Array, axis: int) -> jax.Array:
    """`jnp.take` that works on a symbolic size that may be 0: `x` gets one more element there."""
    if not surely_positive(x.shape[axis]):
        x = lax.pad(x, x.dtype.type(0), [(0, int(a == axis), 0) for a in range(x.ndim)])
    return jnp.take(x, where, axis, mode="clip")


def one_channel_axis(x: jax.Array) -> jax.Array:
    """`(…, g, c)` as `(…, g*c)`."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def interleaved(blocks: Sequence[int], strides: Sequence[int]) -> list[int]:
    """(b1, s1, b2, s2, …)"""
    return [size for pair in zip(blocks, strides, strict=True) for size in pair]


def _into_channels(y: jax.Array, rank: int) -> jax.Array:
    """`(n, b1, s1, b2, s2, …, g, o)` as `(n, b1, b2, …, g, s1, s2, …, o)`."""
    axes = [1 + axis for axis in _blocks_first(rank)]
    return y.transpose(0, *axes[:rank], 2 * rank + 1, *axes[rank:], 2 * rank + 2)


def _blocks_first(rank: int) -> list[int]:
    """The axes (b1, s1, b2, s2, …) in the order (b1, b2, …, s1, s2, …)."""
    return [*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)]


def _interleave(rank: int) -> list[int]:
    """The axes (b1, b2, …, s1, s2, …) in the order (b1, s1, b2, s2, …)."""
    return [axis for dim in range(rank) for axis in (dim, rank + dim)]
