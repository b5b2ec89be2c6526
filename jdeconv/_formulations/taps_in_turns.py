"""`taps` for many taps: a loop whose turns compute a share of the taps each, so that few are compiled.

The kernel is cut into regions of equal shares. The taps of a share reach outputs as those of a small kernel do that is
moved: by the first tap's place, times the dilation. So a turn slices the images there, and calls `taps_at_once`.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from .._engine.engine import Engine
from .._geometry import Geometry, extent
from .._jax_operations import jnp, lax
from . import taps_at_once
from .blocks import interleaved, pad

# More of these, written out, make one loop that LLVM does not vectorise, or whose compilation takes seconds.
TERMS_IN_SUM, BLOCKS_IN_KERNEL = 64, 16


@dataclasses.dataclass(frozen=True)
class Region:
    """Shares of equal size, side by side."""

    first: tuple[int, ...]
    """The first tap."""
    share: tuple[int, ...]
    """Taps in a turn, in each dimension."""
    turns: tuple[int, ...]

    @property
    def starts(self) -> np.ndarray:
        """`(turns, rank)`: the first tap of each turn."""
        places = itertools.product(*map(range, self.turns))
        return np.array(list(places), np.int32) * np.array(self.share, np.int32) + np.array(self.first, np.int32)


def regions(kernel: Sequence[int], units: Sequence[int], most: int) -> list[Region]:
    """The kernel in shares of at most `most` units: whole planes or rows and, of the next dimension, a part.

    >>> regions((7, 7), (1, 1), 16)
    [Region(first=(0, 0), share=(2, 7), turns=(3, 1)), Region(first=(6, 0), share=(1, 7), turns=(1, 1))]
    """
    cuts = []
    for k, unit in zip(reversed(kernel), reversed(units), strict=True):
        count = -(-k // unit)
        part = min(k, unit * taps_at_once.evenly(count, max(most, 1)))
        most //= count
        turns, rest = divmod(k, part)
        cuts.append([(0, part, turns), *([(k - rest, rest, 1)] if rest else [])])
    choices = (zip(*reversed(choice), strict=True) for choice in itertools.product(*cuts))
    return [Region(tuple(first), tuple(share), tuple(turns)) for first, share, turns in choices]


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The sum of `taps_at_once.transpose_conv` over shares; each reads the input moved by its first tap."""
    sizes = zip(geometry.kernel, geometry.strides, geometry.dilations, strict=True)
    farthest = [(k - 1) // s * d for k, s, d in sizes]
    sizes = zip(geometry.output, geometry.low, geometry.strides, strict=True)
    reaching = tuple((out - 1 + low) // s + 1 for out, low, s in sizes)
    x = pad(x, [(far, size - i) for far, size, i in zip(farthest, reaching, geometry.input, strict=True)])

    def share(start: jax.Array, kernel: tuple[int, ...]) -> jax.Array:
        moves = zip(farthest, start, geometry.strides, geometry.dilations, strict=True)
        places = [far - first // s * d for far, first, s, d in moves]
        part = dataclasses.replace(geometry, input=reaching, kernel=kernel)
        return taps_at_once.transpose_conv(_cut(x, 1, places, reaching), _cut(w, 0, start, kernel), part, engine)

    shape = x.shape[0], *geometry.output, x.shape[-2], w.shape[-3]
    # A share is of whole blocks of taps, because the input is moved by whole positions.
    shares = regions(geometry.kernel, geometry.strides, TERMS_IN_SUM // x.shape[-1])
    return _summed(share, shares, lax.full(shape, 0, engine.sum_dtype))


def input_grad(w: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The sum of `taps_at_once.input_grad` over shares; each reads the output moved by its first tap."""
    y = pad(y, list(zip(geometry.low, geometry.high, strict=True)))

    def share(start: jax.Array, kernel: tuple[int, ...]) -> jax.Array:
        part = _unpadded(geometry, kernel)
        return taps_at_once.input_grad(_cut(w, 0, start, kernel), _moved(y, start, part), part, engine)

    shape = y.shape[0], *geometry.input, y.shape[-2], w.shape[-1]
    shares = regions(geometry.kernel, (1,) * geometry.rank, TERMS_IN_SUM // y.shape[-1])
    return _summed(share, shares, lax.full(shape, 0, engine.sum_dtype))


def kernel_grad(x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """`taps_at_once.kernel_grad` of each share of the kernel, side by side."""
    rank, kernel = geometry.rank, []
    x, y = engine.materialised(x), engine.materialised(pad(y, list(zip(geometry.low, geometry.high, strict=True))))
    engine = dataclasses.replace(engine, platform="other")  # what a turn reads is in memory already
    for region in regions(geometry.kernel, geometry.strides, BLOCKS_IN_KERNEL):
        part = _unpadded(geometry, region.share)

        def share(start: jax.Array, part: Geometry = part) -> jax.Array:
            return taps_at_once.kernel_grad(x, _moved(y, start, part), part, engine)

        total = lax.map(share, jnp.asarray(region.starts))
        total = total.reshape(*region.turns, *total.shape[1:])
        total = lax.transpose(total, (*interleaved(range(rank), range(rank, 2 * rank)), *range(2 * rank, total.ndim)))
        sizes = [turns * size for turns, size in zip(region.turns, region.share, strict=True)]
        total = total.reshape(*sizes, *total.shape[2 * rank :])
        places = zip(region.first, sizes, geometry.kernel, strict=True)
        pads = [(first, k - first - size, 0) for first, size, k in places]
        kernel.append(lax.pad(total, total.dtype.type(0), [*pads, *[(0, 0, 0)] * 3]))
    return functools.reduce(operator.add, kernel)


def _summed(share: Callable[..., jax.Array], regions: Sequence[Region], total: jax.Array) -> jax.Array:
    """`total` plus all shares, each a function of its first tap and its size."""
    for region in regions:

        def add(total: jax.Array, start: jax.Array, size: tuple[int, ...] = region.share) -> tuple[jax.Array, None]:
            return total + share(start, size), None

        total, _ = lax.scan(add, total, jnp.asarray(region.starts))
    return total


def _unpadded(geometry: Geometry, kernel: tuple[int, ...]) -> Geometry:
    """The geometry of some taps, whose output is what they reach."""
    sizes = zip(geometry.input, kernel, geometry.strides, geometry.dilations, strict=True)
    output = tuple((i - 1) * s + extent(k, d) for i, k, s, d in sizes)
    return dataclasses.replace(geometry, kernel=kernel, output=output, low=(0,) * geometry.rank)


def _moved(y: jax.Array, start: jax.Array, part: Geometry) -> jax.Array:
    """What the taps of `part` reach, if the first is `start`."""
    return _cut(y, 1, [first * d for first, d in zip(start, part.dilations, strict=True)], part.output)


def _cut(v: jax.Array, axis: int, starts: Any, sizes: Sequence[int]) -> jax.Array:
    """A slice of the dimensions from `axis` on."""
    after = v.shape[axis + len(sizes) :]
    places = [jnp.asarray(start, "int32") for start in (*(0,) * axis, *starts, *(0,) * len(after))]
    return lax.dynamic_slice(v, places, (*v.shape[:axis], *sizes, *after))
