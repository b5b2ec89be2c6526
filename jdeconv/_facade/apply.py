"""The operator on arrays as users have them: all groups' channels on one axis, wherever that is; a bias."""

from typing import Any

import jax
import numpy as np

from .._geometry import Geometry
from .._jax_operations import jnp
from .._operator.primitive import solve, unfolded
from .explicit_mesh import Dimension, channels, on_mesh


def transpose_conv(
    x: jax.Array, w: jax.Array, geometry: Geometry, groups: int, channel_axis: int, **parameters: Any
) -> jax.Array:
    """y from x `(n, *in, c_in)` and w `(*k, c_out / groups, c_in)`; x and y have their channels at `channel_axis`.

    `parameters` are those of `solve`. On a mesh with explicit axes the batch and the spatial dimensions are split as
    those of x are, channels as those of w's outputs, where there are groups as those of x and of w.
    """
    given = x, w
    batch, in_channels, group_outputs = x.shape[0], x.shape[channel_axis], w.shape[-2]

    def compute(x: jax.Array, w: jax.Array) -> jax.Array:
        grouped = (groups, in_channels // groups)
        x = jnp.moveaxis(x, channel_axis, -1).reshape(batch, *geometry.input, *grouped)
        w = w.reshape(*geometry.kernel, group_outputs, *grouped)
        y = solve("output", geometry, input=unfolded(x, *given), kernel=w, **parameters)
        return jnp.moveaxis(y.reshape(batch, *geometry.output, groups * group_outputs), -1, channel_axis)

    sizes: list[Any] = [batch, *geometry.output]
    sizes.insert(channel_axis, groups * group_outputs)
    dimensions = [Dimension(size, ((0, axis),)) for axis, size in enumerate(sizes)]
    dimensions[channel_axis] = channels(sizes[channel_axis], groups, channel_axis, geometry.rank, geometry.rank + 1)
    return on_mesh(compute, x, w, dimensions)


def with_bias(y: jax.Array, bias: jax.Array | None, channel_axis: int) -> jax.Array:
    """y and, in each channel, its bias.

    Added in float32 at least: the bias's gradient is summed in the type of the sum, and XLA CPU's sums in bfloat16 were
    8 to 19 % off.
    """
    if bias is None:
        return y
    wide = np.promote_types(y.dtype, "float32") if jnp.issubdtype(y.dtype, jnp.floating) else y.dtype
    shape = [1] * y.ndim
    shape[channel_axis] = -1
    return (y.astype(wide) + bias.astype(wide).reshape(shape)).astype(y.dtype)
