"""Output phases: a transposed convolution of stride s is one of stride 1 with s times the output channels.

Tap t = a*s + r joins input position p to output position p*s + t - low = (p + a)*s + r - low: phase r of block p + a.
So cut the kernel's taps into blocks of s, and the output's positions into blocks of s from -(low % s) on. Then each
block of taps is one tap of stride 1 whose output channels are the phases. With dilations above 1, zeros are put between
the taps first. With stride 1 nothing changes. A kernel shorter than the stride reaches only the first phases.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

from ._geometry import Geometry, Size


def block_geometry(geometry: Geometry) -> Geometry:
    """The geometry, of stride 1, that joins input positions to blocks of outputs by blocks of taps.

    >>> from jdeconv._geometry import build
    >>> block_geometry(build((5,), (4,), (2,), (1,), "SAME"))
    Geometry(input=(5,), kernel=(2,), output=(6,), strides=(1,), dilations=(1,), low=(0,))
    """
    return Geometry(
        input=geometry.input,
        kernel=geometry.blocks,
        output=block_counts(geometry, block_offset(geometry)),
        strides=(1,) * geometry.rank,
        dilations=tuple(d if s == 1 else 1 for d, s in zip(geometry.dilations, geometry.strides, strict=True)),
        low=tuple(low // s for low, s in zip(geometry.low, geometry.strides, strict=True)),
    )


def phases(geometry: Geometry) -> Iterator[tuple[tuple[slice, ...], Geometry]]:
    """For each phase its taps, and the geometry that joins the input to its outputs; empty if no tap reaches it."""
    offsets = phase_offset(geometry)
    counts = block_counts(geometry, offsets)
    for phase in itertools.product(*map(range, geometry.phases)):
        taps, steps, lows = [], [], []
        sizes = zip(phase, geometry.kernel, geometry.strides, geometry.dilations, geometry.low, offsets, strict=True)
        for r, k, s, d, low, offset in sizes:
            # The taps that reach phase r are s/gcd(s, d) taps apart, which is d/gcd(s, d) blocks.
            common = math.gcd(s, d)
            start = low - offset + r
            first = next((t for t in range(min(k, s)) if (start - t * d) % s == 0), k)
            taps.append(slice(first, None, s // common))
            steps.append(d // common)
            lows.append((start - first * d) // s)
        kernel = tuple(len(range(k)[one]) for k, one in zip(geometry.kernel, taps, strict=True))
        yield tuple(taps), Geometry(geometry.input, kernel, counts, (1,) * geometry.rank, tuple(steps), tuple(lows))


def block_offset(geometry: Geometry) -> tuple[int, ...]:
    """How many positions before the output the first block starts, if blocks start at the first tap's phase."""
    return tuple(low % s for low, s in zip(geometry.low, geometry.strides, strict=True))


def block_counts(geometry: Geometry, offset: Sequence[int]) -> tuple[Size, ...]:
    """ceil((offset + output) / s): output - input*s is a plain int even for symbolic sizes."""
    sizes = zip(geometry.input, geometry.output, geometry.strides, offset, strict=True)
    return tuple(i - (-(f + o - i * s) // s) for i, o, s, f in sizes)


def phase_offset(geometry: Geometry) -> tuple[int, ...]:
    """The same for separate phases: 0 where taps reach all phases, so that no phase has an output too many."""
    sizes = zip(geometry.strides, geometry.phases, block_offset(geometry), strict=True)
    return tuple(0 if r == s else offset for s, r, offset in sizes)
