"""Convolutions of stride 1 give the output's phases, which are interleaved: no zeros between the input's positions.

Fused, one convolution gives all phases as its channels; where the stride does not divide the kernel, the last block of
taps is filled up with zeros. Separate, each phase has a convolution with just its own taps.
"""

import itertools
import math
from typing import TYPE_CHECKING

import jax
from jax import lax

from .._geometry import Geometry
from .._problem import Problem
from . import conv
from .blocks import kernel_from_blocks, kernel_to_blocks, output_from_blocks, output_to_blocks, phases, unit

if TYPE_CHECKING:
    from . import Engine


def supports(problem: Problem) -> str | None:
    """Everything; fused, a dilated kernel of stride above 1 is filled up with zeros."""
    return None


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """Blocks of taps give blocks of outputs."""
    if _fuses(geometry, outputs=w.shape[-3]):
        y = conv.transpose_conv(x, kernel_to_blocks(w, geometry), unit(geometry), engine)
    else:
        y = _separate(x, w, geometry, engine)
    return output_from_blocks(y, geometry)


def input_grad(w: jax.Array, y: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """The convolution of stride 1 over blocks of outputs."""
    return conv.input_grad(kernel_to_blocks(w, geometry), output_to_blocks(y, geometry), unit(geometry), engine)


def kernel_grad(x: jax.Array, y: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """The kernel gradient of that one, without window dilation."""
    return kernel_from_blocks(conv.kernel_grad(x, output_to_blocks(y, geometry), unit(geometry), engine), geometry)


def _fuses(geometry: Geometry, outputs: int) -> bool:
    """Whether one convolution beats one for each phase.

    It does without zeros among its taps, and where the phases are many or have few channels each: CPU, 9x9 taps of
    stride 3 to one channel, 7 ms against 12; but 3x3 taps of stride 2 to 64 channels, 69 against 43.
    """
    filled = math.prod(b * s for b, s in zip(unit(geometry).kernel, phases(geometry), strict=True))
    return outputs < 16 or math.prod(phases(geometry)) > 16 or filled == math.prod(geometry.kernel)


def _separate(x: jax.Array, w: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """`(n, *blocks, g, r1*…*rn*o)`, as fused."""
    blocks, reached = unit(geometry), phases(geometry)
    parts = []
    for phase in itertools.product(*map(range, reached)):
        taps, steps, lows = [], [], []
        sizes = zip(phase, geometry.kernel, geometry.strides, geometry.dilations, blocks.low, strict=True)
        for r, k, s, d, low in sizes:
            # The taps that reach phase r are s/gcd(s, d) apart, and that is d/gcd(s, d) blocks.
            common = math.gcd(s, d)
            first = next((t for t in range(min(k, s)) if t * d % s == r), k)
            taps.append(slice(first, None, s // common))
            steps.append(d // common)
            lows.append(low - first * d // s)
        own = w[tuple(taps)]
        if 0 in own.shape:
            parts.append(lax.full((x.shape[0], *blocks.output, w.shape[-2], w.shape[-3]), 0, engine.sums))
            continue
        kernel, ones = own.shape[: geometry.rank], (1,) * geometry.rank
        alone = Geometry(geometry.input, kernel, blocks.output, ones, tuple(steps), tuple(lows))
        parts.append(engine.wide(conv.transpose_conv(x, own, alone, engine)))
    y = jax.numpy.stack(parts, axis=-2)
    return y.reshape(*y.shape[:-2], -1)
