"""The method 'lax': one convolution for each result, for the output the definition: lhs dilation, flipped kernel.

XLA is never given negative padding, but for TPUs (`lax_conv_tpu`): with it, jaxlib 0.10 reads out of bounds on CPU
without lhs dilation. What a negative pad would cut off is sliced away instead.
"""

import string
from collections.abc import Iterator, Sequence

import jax

from .._engine.engine import Engine
from .._geometry import Geometry, Size
from .._jax_operations import lax
from .._plan.problem import FEW_GROUPS, Problem
from . import lax_conv_tpu
from .blocks import one_channel_axis, pad, without_gaps
from .formulation import Variants


def supports(problem: Problem) -> str | None:
    """None: the definition does everything."""
    return None


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """Each output is a window of the dilated input under the flipped kernel."""
    rank = geometry.rank
    n, groups, o = x.shape[0], x.shape[-2], w.shape[-3]
    if groups > 1:  # XLA wants one channel axis, groups outermost
        w = lax.transpose(w, (*range(rank), rank + 1, rank, rank + 2))
    pads = geometry.outer
    # XLA mistakes an unpadded dimension of kernel 2 and lhs dilation 2 for a grouped convolution's. jaxlib 0.10 to 0.12
    # then abort if the kernel exceeds the input in another one. So such a dimension gets a row, cut off again.
    spare = [
        int((k, s, d) == (2, 2, 1) and max(pad) <= 0)
        for k, s, d, pad in zip(geometry.kernel, geometry.strides, geometry.dilations, pads, strict=True)
    ]
    y = engine.conv(
        one_channel_axis(x),
        # Flipped last: XLA GPU recognises a transposed convolution by a reversal right before it.
        lax.rev(w.reshape(*geometry.kernel, groups * o, w.shape[-1]), range(rank)),
        window_strides=(1,) * rank,
        padding=[(low, high + more) for (low, high), more in zip(_positive_pads(pads), spare, strict=True)],
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.dilations,
        dimension_numbers=_numbers(rank, lhs="N_C", rhs="_OI", out="N_C"),
        feature_group_count=groups,
    )
    cuts = [(low, min(high, 0) - more) for (low, high), more in zip(pads, spare, strict=True)]
    return _cropped(y, cuts).reshape(n, *geometry.output, groups, o)


def input_grad(w: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The strided convolution."""
    rank = geometry.rank
    n, groups, i = y.shape[0], y.shape[-2], w.shape[-1]
    pads = list(zip(geometry.low, geometry.high, strict=True))
    if not engine.onednn:  # proven for images that end at the last window
        # XLA's windows stop before the rest of a stride, which need not be cut off.
        pads = [(low, 0 if _rest(high, s) else high) for (low, high), s in zip(pads, geometry.strides, strict=True)]
    x = engine.conv(
        one_channel_axis(_cropped(y, pads)),
        one_channel_axis(w),
        window_strides=geometry.strides,
        padding=_positive_pads(pads),
        rhs_dilation=geometry.dilations,
        dimension_numbers=_numbers(rank, lhs="N_C", rhs="_IO", out="N_C"),
        feature_group_count=groups,
    )
    return x.reshape(n, *geometry.input, groups, i)


def kernel_grad(
    x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine, batch_groups: bool = False, crop: bool = True
) -> jax.Array:
    """The strided convolution's own kernel gradient: y convolved with x as the window, summed over the batch.

    Autodiff of the lhs-dilated convolution swaps the two roles, and XLA CPU computes that naively: 20 to 126 times
    slower than TensorFlow a training step (jax#23783, jax#31662).
    """
    rank = geometry.rank
    groups, o, i = y.shape[-2], y.shape[-1], x.shape[-1]
    pads = list(zip(geometry.low, geometry.high, strict=True))
    if crop:
        y, pads = _cropped(y, pads), _positive_pads(pads)
    lhs, lhs_spec, grouping = y, "C_N", {"feature_group_count": groups}
    if batch_groups:
        grouping = {"batch_group_count": groups}
    elif groups > 1:
        # The batch joins the groups, for feature_group_count: with batch_group_count XLA CPU is up to 30 times slower
        # (8 groups of 16), and XLA's partitioner aborts or returns multiples of the gradient on meshes of two axes.
        lhs, lhs_spec = lax.transpose(lhs, (rank + 2, *range(1, rank + 1), rank + 1, 0)), "N_C"
    w = engine.conv(
        one_channel_axis(lhs),
        one_channel_axis(x),
        window_strides=geometry.dilations,
        padding=pads,
        rhs_dilation=geometry.strides,
        dimension_numbers=_numbers(rank, lhs=lhs_spec, rhs="I_O", out="_NC"),
        **grouping,
    )
    return w.reshape(*geometry.kernel, o, groups, i)


def _output_for_cudnn(x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """A convolution that XLA GPU recognises as cuDNN's transposed one."""
    groups, strided = x.shape[-2], max(geometry.strides) > 1
    # For groups XLA calls no convBackwardInput, but a convolution with lhs dilation.
    if strided and 1 < groups <= FEW_GROUPS:
        dense = [
            _output_for_cudnn(x[..., group : group + 1, :], w[..., group : group + 1, :], geometry, engine)
            for group in range(groups)
        ]
        return lax.concatenate(dense, geometry.rank + 1)
    # A kernel converted from another layout may be reversed already: without a barrier the two would cancel, and XLA
    # would not recognise the transposed convolution. With dilations it never does.
    if strided and max(geometry.dilations) == 1:
        w = lax.optimization_barrier(w)
    return transpose_conv(x, w, geometry, engine)


def _input_for_onednn(w: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """Without the outputs that no tap reaches: oneDNN is not called for strides beyond the kernel."""
    return input_grad(w, *without_gaps(y, geometry), engine)


def _kernel_for_onednn(x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """Without the outputs that no tap reaches; channels as positions and positions as a batch, where faster."""
    # 7, 74x17, 1 to 113, k 3x12, s 7x2: 15 ms, not 42; 3, 7x21x7, 5 to 174, k 1x1x9, s 2x4x1: 3.2, not 7.2.
    y, geometry = without_gaps(y, geometry)
    # Not for one channel, which adds no positions, except in one dimension, where rows are folded too.
    if geometry.dilations[-1] == 1 and (y.shape[-1] > 1 or geometry.rank == 1):
        return _channels_as_positions(x, y, geometry, engine)
    return kernel_grad(x, y, geometry, engine)


def _kernel_in_batch_groups(x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """As lax's autodiff of the strided convolution. XLA's partitioner, which batch groups break, never sees them.

    Only so XLA calls cuDNN's convBackwardFilter.

    The rest of a stride is cut off by a negative pad, which cuDNN's call leaves out, and not by a copy of the image.
    """
    rests = all(high >= 0 or _rest(high, s) for high, s in zip(geometry.high, geometry.strides, strict=True))
    crop = min(geometry.low) < 0 or not rests
    return kernel_grad(x, y, geometry, engine, batch_groups=y.shape[-2] > 1, crop=crop)


def _channels_as_positions(x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The kernel gradient with y's channels laid out along its last dimension; their number dilates the window there.

    So a row has as many results as oneDNN's blocks need, and not just one for each of the kernel's few taps:
    16, 32x32, 128 to 64, k 4, s 2: 24 ms, not 49; 8, 32x32, 128 to 128, k 3, s 1: 12, not 24.
    """
    kernel, pads = geometry.kernel, list(zip(geometry.low, geometry.high, strict=True))
    y, pads = _cropped(y, pads), _positive_pads(pads)
    if geometry.rank == 1 and (rows := _rows(geometry)) > 1:
        x, y, geometry = _as_plane(x, pad(y, pads), geometry, rows)
        pads = [(0, 0), (0, 0)]
    if (runs := _runs(x, geometry)) > 1:
        x, y = _as_batch(x, pad(y, pads[:1]), geometry, runs)
        pads[0] = 0, 0
    rank, (groups, o), n = geometry.rank, y.shape[-2:], x.shape[0]
    y = y.transpose(*range(1, rank + 1), rank + 2, rank + 1, 0)
    w = engine.conv(
        y.reshape(1, *y.shape[: rank - 1], -1, groups * n),
        one_channel_axis(x),
        window_strides=geometry.dilations,
        padding=[*pads[:-1], (pads[-1][0] * o, pads[-1][1] * o)],
        rhs_dilation=(*geometry.strides[:-1], geometry.strides[-1] * o),
        dimension_numbers=_numbers(rank, lhs="N_C", rhs="I_O", out="N_C"),
        feature_group_count=groups,
    )
    return w.reshape(*kernel, o, groups, x.shape[-1])


def _rows(geometry: Geometry) -> int:
    """Into how many rows of 16 to 64 positions to fold one dimension: longer windows are slow, above all by AMX.

    8, 2048, 128 to 64, k 4, s 2, bfloat16: 5 ms, not 890.
    """
    size = geometry.input[0]
    return next(_parts(geometry, range(-(-size // 64), size // 16 + 1)), 1)


def _as_plane(x: jax.Array, y: jax.Array, geometry: Geometry, rows: int) -> tuple[jax.Array, jax.Array, Geometry]:
    """Folds one dimension into rows, which overlap in y; y is padded already."""
    x, y = x.reshape(x.shape[0], rows, -1, *x.shape[2:]), _overlapping(y, geometry, rows)
    sizes = dict(input=x.shape[1:3], kernel=(1, *geometry.kernel), output=y.shape[1:3], low=(0, 0))
    return x, y, Geometry(**sizes, strides=(1, *geometry.strides), dilations=(1, *geometry.dilations))


def _runs(x: jax.Array, geometry: Geometry) -> int:
    """Into how many runs of rows to cut each image, so that runs make a batch of 8: AMX multiplies so many.

    bfloat16: 1, 128x128, 128 to 64, k 2, s 2: 5 ms, not 31; 4, 32x32, 512 to 256, k 2, s 2: 10, not 17. Float32
    gains nothing.
    """
    return max(_parts(geometry, range(1, 8 // x.shape[0] + 1)), default=1) if x.dtype == "bfloat16" else 1


def _as_batch(x: jax.Array, y: jax.Array, geometry: Geometry, runs: int) -> tuple[jax.Array, jax.Array]:
    """Makes runs of rows images of their own, which overlap in y; y's rows are padded already."""
    x = x.reshape(-1, x.shape[1] // runs, *x.shape[2:])
    return x, _overlapping(y, geometry, runs).reshape(x.shape[0], -1, *y.shape[2:])


def _parts(geometry: Geometry, numbers: range) -> Iterator[int]:
    """The `numbers` of equal parts of the first dimension that overlap in y by at most a quarter of a part."""
    size, overlap = geometry.input[0], 4 * (geometry.extent[0] - geometry.strides[0])
    return (n for n in numbers if size % n == 0 and overlap * n <= size * geometry.strides[0])


def _overlapping(y: jax.Array, geometry: Geometry, parts: int) -> jax.Array:
    """`(n, parts, rows, …)`: the rows of the padded y that each part of x reaches; kernel >= stride."""
    step, overlap = geometry.input[0] // parts * geometry.strides[0], geometry.extent[0] - geometry.strides[0]
    own = y[:, : parts * step].reshape(y.shape[0], parts, step, *y.shape[2:])
    after = pad(y[:, step:], [(0, step - overlap)]).reshape(own.shape)
    return lax.concatenate([own, after[:, :, :overlap]], 2)


def _numbers(rank: int, **specs: str) -> lax.ConvDimensionNumbers:
    """Dimension numbers from one letter a dimension; `_` stands for all spatial ones."""
    spatial = string.digits[:rank]
    letters = {"lhs": "NC", "rhs": "OI", "out": "NC"}
    full = {role: specs[role].replace("_", spatial) for role in letters}
    return lax.ConvDimensionNumbers(*(tuple(map(full[role].index, letters[role] + spatial)) for role in letters))


def _positive_pads(pads: Sequence[tuple[Size, Size]]) -> list[tuple[Size, Size]]:
    return [(max(low, 0), max(high, 0)) for low, high in pads]


def _rest(high: Size, stride: int) -> bool:
    """Whether the pad cuts off less than a stride: what lies behind the last window of a strided convolution."""
    return isinstance(high, int) and -stride < high < 0


def _cropped(x: jax.Array, pads: Sequence[tuple[Size, Size]]) -> jax.Array:
    """Slices away what negative pads of the spatial dimensions (the second and on) would cut off."""
    cuts = {axis: (max(-low, 0), max(-high, 0)) for axis, (low, high) in enumerate(pads, start=1)}
    for axis, (low, high) in cuts.items():
        if low or high:
            x = lax.slice_in_dim(x, low, x.shape[axis] - high, axis=axis)
    return x


VARIANTS: Variants = {
    "output": {"plain": transpose_conv, "for cuDNN": _output_for_cudnn, "as lax": lax_conv_tpu.transpose_conv},
    "input": {"plain": input_grad, "for oneDNN": _input_for_onednn, "as lax": lax_conv_tpu.input_grad},
    "kernel": {
        "plain": kernel_grad,
        "for oneDNN": _kernel_for_onednn,
        "for cuDNN": _kernel_in_batch_groups,
        "in batch groups": _kernel_in_batch_groups,
        "as lax": lax_conv_tpu.kernel_grad,
    },
}
