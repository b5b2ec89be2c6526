"""The programs that `lax.conv_transpose` and its derivatives are, operation by operation, for the TPU.

Its compiler's programs are slower if pads are sliced away or a kernel's axes come in another order.
Negative pads are left to XLA here: only jaxlib 0.10 on CPU reads out of bounds with them.
"""

import string
from typing import Any

import jax

from .._engine.engine import Engine
from .._geometry import Geometry
from .._jax_operations import lax
from .blocks import one_channel_axis


def transpose_conv(x: jax.Array, w: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The dilated input convolved with the flipped kernel."""
    groups = x.shape[-2]
    y = _conv(
        engine, x, _flipped(w, geometry), ("N_C", "_IO", "N_C"), padding=geometry.outer,
        lhs_dilation=geometry.strides, rhs_dilation=geometry.dilations, feature_group_count=groups,
    )  # fmt: skip
    return y.reshape(*y.shape[:-1], groups, -1)


def input_grad(w: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The strided convolution."""
    groups, kernel, spec = y.shape[-2], one_channel_axis(w), "_IO"
    if groups == 1:  # reversed twice, as in lax: 3, 11x11, 1 to 247, k 7, s 1: 29.0 thousand cycles, not 30.6
        kernel, spec = lax.rev(_flipped(w, geometry), range(geometry.rank)), "_OI"
    x = _conv(
        engine, y, kernel, ("N_C", spec, "N_C"),
        padding=list(zip(geometry.low, geometry.high, strict=True)), window_strides=geometry.strides,
        rhs_dilation=geometry.dilations, feature_group_count=groups,
    )  # fmt: skip
    return x.reshape(*x.shape[:-1], groups, -1)


def kernel_grad(x: jax.Array, y: jax.Array, geometry: Geometry, engine: Engine) -> jax.Array:
    """The dilated input convolved with the output's gradient; then flipped."""
    groups, i, o = *x.shape[-2:], y.shape[-1]
    w = _conv(
        engine, x, one_channel_axis(y), ("C_N", "I_O", "_NC"), padding=geometry.outer,
        window_strides=geometry.dilations, lhs_dilation=geometry.strides, batch_group_count=groups,
    )  # fmt: skip
    if groups == 1:
        return lax.rev(w.swapaxes(-2, -1), range(geometry.rank))[..., None, :]
    w = w.reshape(*geometry.kernel, i, groups, o).swapaxes(-3, -1)
    return lax.rev(one_channel_axis(w), range(geometry.rank)).reshape(w.shape)


def _conv(engine: Engine, lhs: jax.Array, rhs: jax.Array, specs: tuple[str, str, str], **arguments: Any) -> jax.Array:
    """A convolution; `_` in its dimension numbers stands for the spatial dimensions."""
    lhs = one_channel_axis(lhs)
    lhs_spec, rhs_spec, out_spec = (spec.replace("_", string.digits[: lhs.ndim - 2]) for spec in specs)
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, (lhs_spec, rhs_spec, out_spec))
    arguments = {"window_strides": (1,) * (lhs.ndim - 2), **arguments}
    return engine.conv(lhs, rhs, dimension_numbers=numbers, **arguments)


def _flipped(w: jax.Array, geometry: Geometry) -> jax.Array:
    """`(*k, o, g, i)` with its taps reversed, as `(*k, i, g*o)`."""
    flipped = lax.rev(one_channel_axis(w), range(geometry.rank))
    if w.shape[-2] > 1:  # lax has no group axis: with an axis of one group the program would differ
        flipped = flipped.reshape(w.shape)
    flipped = flipped.swapaxes(geometry.rank, -1)
    return flipped.reshape(*flipped.shape[: geometry.rank + 1], -1)
