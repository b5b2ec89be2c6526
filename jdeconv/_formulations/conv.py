"""One `lax` convolution for each result: lhs dilation and a flipped kernel for the output, the definition itself.

No padding handed to XLA is ever negative: jaxlib 0.10 reads out of bounds there (CPU, no lhs dilation). What a negative
pad would cut off is sliced away instead.
"""

import dataclasses
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
from jax import lax

from .._geometry import Geometry, Size
from .._problem import FEW_GROUPS, Problem
from . import as_lax
from .blocks import one_channel_axis, without_gaps

if TYPE_CHECKING:
    from . import Engine


def supports(problem: Problem) -> str | None:
    """The definition: it does everything."""
    return None


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """Each output is a window of the dilated input under the flipped kernel."""
    if engine.platform == "tpu":
        return as_lax.transpose_conv(x, w, geometry, engine)
    rank = geometry.rank
    n, groups, o = x.shape[0], x.shape[-2], w.shape[-3]
    if engine.platform == "gpu":
        if 1 < groups <= FEW_GROUPS:  # XLA calls no convBackwardInput for groups, but a convolution with lhs dilation
            dense = [
                transpose_conv(x[..., group : group + 1, :], w[..., group : group + 1, :], geometry, engine)
                for group in range(groups)
            ]
            return lax.concatenate(dense, rank + 1)
        # Else it cancels with another reversal, as kernels of other layouts have, and XLA sees no transposed one.
        w = lax.optimization_barrier(w)
    if groups > 1:  # XLA takes one channel axis, groups outermost
        w = lax.transpose(w, (*range(rank), rank + 1, rank, rank + 2))
    pads = geometry.outer
    # One row more, cut off again, where XLA takes an unpadded dimension whose lhs dilation is its kernel size for a
    # grouped one (window stride = kernel - 1): jaxlib 0.10 to 0.12 abort there if a kernel exceeds its input elsewhere.
    spare = [
        int((k, s, d) == (2, 2, 1) and max(pad) <= 0)
        for k, s, d, pad in zip(geometry.kernel, geometry.strides, geometry.dilations, pads, strict=True)
    ]
    y = engine.conv(
        one_channel_axis(x),
        # Flipped last: XLA for a GPU knows a transposed convolution by a reversal right before it.
        lax.rev(w.reshape(*geometry.kernel, groups * o, w.shape[-1]), range(rank)),
        window_strides=(1,) * rank,
        padding=[(low, high + more) for (low, high), more in zip(_only_positive(pads), spare, strict=True)],
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.dilations,
        dimension_numbers=_numbers(rank, lhs="N_C", rhs="_OI", out="N_C"),
        feature_group_count=groups,
    )
    cuts = [(low, min(high, 0) - more) for (low, high), more in zip(pads, spare, strict=True)]
    return _only_negative(y, cuts).reshape(n, *geometry.output, groups, o)


def input_grad(w: jax.Array, y: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """The strided convolution."""
    if engine.platform == "tpu":
        return as_lax.input_grad(w, y, geometry, engine)
    if engine.onednn:  # which refuses strides beyond the kernel
        y, geometry = without_gaps(y, geometry)
    rank = geometry.rank
    n, groups, i = y.shape[0], y.shape[-2], w.shape[-1]
    pads = list(zip(geometry.low, geometry.high, strict=True))
    x = engine.conv(
        one_channel_axis(_only_negative(y, pads)),
        one_channel_axis(w),
        window_strides=geometry.strides,
        padding=_only_positive(pads),
        rhs_dilation=geometry.dilations,
        dimension_numbers=_numbers(rank, lhs="N_C", rhs="_IO", out="N_C"),
        feature_group_count=groups,
    )
    return x.reshape(n, *geometry.input, groups, i)


def kernel_grad(x: jax.Array, y: jax.Array, geometry: Geometry, engine: "Engine") -> jax.Array:
    """The strided convolution's own kernel gradient: y is convolved with x as the window, the batch being summed.

    Autodiff of the lhs-dilated convolution swaps the two roles, and XLA CPU computes that naively: 20 to 126 times
    slower than TensorFlow a training step (jax#23783, jax#31662).
    """
    if engine.platform == "tpu" and not fewer_cycles_swapped(x.shape[0], x.shape[-1], y.shape[-1], geometry):
        return as_lax.kernel_grad(x, y, geometry, engine)
    if engine.onednn:
        # 7, 74x17, 1 to 113, k 3x12, s 7x2: 15 ms, not 42; 3, 7x21x7, 5 to 174, k 1x1x9, s 2x4x1: 3.2, not 7.2.
        y, geometry = without_gaps(y, geometry)
        if (runs := _runs(x, geometry)) > 1:
            x, y, geometry = _as_batch(x, y, geometry, runs)
    rank = geometry.rank
    groups, o, i = y.shape[-2], y.shape[-1], x.shape[-1]
    pads = list(zip(geometry.low, geometry.high, strict=True))
    lhs, lhs_spec, grouping = _only_negative(y, pads), "C_N", {"feature_group_count": groups}
    if groups > 1 and engine.platform == "gpu":  # the one form in which XLA sees convBackwardFilter, and no partitioner
        grouping = {"batch_group_count": groups}
    elif groups > 1:
        # The batch beside the groups, for feature_group_count: with batch_group_count XLA CPU is up to 30 times slower
        # (8 groups of 16), and XLA's partitioner aborts or returns multiples of the gradient on meshes of two axes.
        lhs, lhs_spec = lax.transpose(lhs, (rank + 2, *range(1, rank + 1), rank + 1, 0)), "N_C"
    w = engine.conv(
        one_channel_axis(lhs),
        one_channel_axis(x),
        window_strides=geometry.dilations,
        padding=_only_positive(pads),
        rhs_dilation=geometry.strides,
        dimension_numbers=_numbers(rank, lhs=lhs_spec, rhs="I_O", out="_NC"),
        **grouping,
    )
    return w.reshape(*geometry.kernel, o, groups, i)


def _runs(x: jax.Array, geometry: Geometry) -> int:
    """Into how many runs of rows to cut each image, for them to be summed as a batch: oneDNN is slow below 8 images.

    1, 64x64, 256 to 128, k 3, s 2: 16 ms, not 34; 1, 128x128, 32 to 16, k 4, s 2: 2.4, not 5.4; the same of 4 images:
    18, not 8.6, as copying takes longer.
    """
    batch, rows = x.shape[0], geometry.input[0]
    if not isinstance(batch, int) or not isinstance(rows, int) or batch > 2:
        return 1
    overlap = 4 * (_span(geometry, 1) - geometry.strides[0])  # of two runs in y: at most a quarter of a run
    fitting = (n for n in range(2, 8 // batch + 1) if rows % n == 0 and overlap <= rows // n * geometry.strides[0])
    return max(fitting, default=1)


def _span(geometry: Geometry, rows: int) -> int:
    """How many rows of y the taps of so many rows of x reach."""
    return (rows - 1) * geometry.strides[0] + geometry.extent[0]


def _as_batch(x: jax.Array, y: jax.Array, geometry: Geometry, runs: int) -> tuple[jax.Array, jax.Array, Geometry]:
    """Runs of rows as images of their own, which in y overlap."""
    rows = geometry.input[0] // runs
    span, step = _span(geometry, rows), rows * geometry.strides[0]
    y = lax.pad(y, y.dtype.type(0), [(0, 0, 0), (geometry.low[0], geometry.high[0], 0), *[(0, 0, 0)] * (y.ndim - 2)])
    parts = [lax.slice_in_dim(y, run * step, run * step + span, axis=1) for run in range(runs)]
    sizes = dict(input=(rows, *geometry.input[1:]), output=(span, *geometry.output[1:]), low=(0, *geometry.low[1:]))
    return (
        x.reshape(-1, rows, *x.shape[2:]),
        jax.numpy.stack(parts, axis=1).reshape(-1, span, *y.shape[2:]),
        dataclasses.replace(geometry, **sizes),
    )


def fewer_cycles_swapped(batch: Size, inputs: Size, outputs: Size, geometry: Geometry) -> bool:
    """Where the TPU compiler estimates fewer cycles for swapped roles than for autodiff's.

    Many inputs to fewer outputs in few places: 16, 8x8, 512 to 256, k 4, s 2: 51, not 116 thousand cycles. Of one
    image it is more (1, 16x16, 93 to 14, k 5, s 3: 16, not 8), of wide images the same, of depthwise ones and of one
    output more (10, 21x21, 148 to 1, k 2, s 6: 19, not 17).
    """
    if not all(isinstance(size, int) for size in (batch, inputs, outputs)):
        return False
    cut = any(pad < 0 for pad in (*geometry.low, *geometry.high))
    return bool(batch > 1 and inputs >= outputs > 1 and not cut)


def _numbers(rank: int, **specs: str) -> lax.ConvDimensionNumbers:
    """Dimension numbers from one letter a dimension, `_` being all the spatial ones."""
    spatial = string.digits[:rank]
    letters = {"lhs": "NC", "rhs": "OI", "out": "NC"}
    full = {role: specs[role].replace("_", spatial) for role in letters}
    return lax.ConvDimensionNumbers(*(tuple(map(full[role].index, letters[role] + spatial)) for role in letters))


def _only_positive(pads: Sequence[tuple[Size, Size]]) -> list[tuple[Size, Size]]:
    return [(max(low, 0), max(high, 0)) for low, high in pads]


def _only_negative(x: jax.Array, pads: Sequence[tuple[Size, Size]]) -> jax.Array:
    """Slices away what the negative pads of each spatial dimension (the second and on) stand for."""
    cuts = {axis: (max(-low, 0), max(-high, 0)) for axis, (low, high) in enumerate(pads, start=1)}
    for axis, (low, high) in cuts.items():
        if low or high:
            x = lax.slice_in_dim(x, low, x.shape[axis] - high, axis=axis)
    return x
