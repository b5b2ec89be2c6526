"""Flax linen's `ConvTranspose`, trained fast."""

from typing import Any

import jax
from flax import linen

from ._call.arrays import python_values
from ._errors import blames_caller
from ._flax import call_layer, grouped_shape, groups_from


class ConvTranspose(linen.ConvTranspose):
    """`flax.linen.ConvTranspose`, its convolution computed by jdeconv: same parameters, same outputs, fast gradients.

    It is constructed, initialised and called as Flax's layer is, with the same parameter tree and the same initial
    values from the same key, so checkpoints interchange. Beyond it:

    Args:
      feature_group_count: the number of groups; divides the input and output features. The kernel is
        `[*kernel_size, in_features / groups, features]`, or `[*kernel_size, features / groups, in_features]` with
        `transpose_kernel`, and so is `mask`. Default 1.
      method: the formulation: `'auto'` (default), `'lax'`, `'phase'`, `'gemm'`, `'taps'` or `'pallas'`.

    `__call__(inputs, output_shape=None)`: `output_shape` asks for spatial sizes (an int or a symbolic dimension,
    or one for each dimension) other than the default ones: any sizes that the strided convolution with that padding
    maps to the input's. Flax counts padding as `jax.lax.conv_transpose` does: by how much the dilated input is padded.

    Raises: ValueError for sizes that are not reachable, `output_shape` with CIRCULAR padding, or groups that don't
    divide; else what Flax's layer and `jdeconv.lax.conv_transpose` raise.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> layer = ConvTranspose(features=8, kernel_size=(3, 3), strides=(2, 2))
      >>> x = jnp.ones((1, 5, 5, 4))
      >>> variables = layer.init(jax.random.key(0), x)
      >>> layer.apply(variables, x).shape, layer.apply(variables, x, output_shape=(9, 9)).shape
      ((1, 10, 10, 8), (1, 9, 9, 8))

    Semantics: Flax 0.12 (tests/facades/test_linen.py).
    """

    feature_group_count: int = 1
    method: str = "auto"

    def __post_init__(self) -> None:
        for name in ("features", "kernel_size", "strides", "padding", "kernel_dilation", "feature_group_count"):
            object.__setattr__(self, name, python_values(getattr(self, name)))
        super().__post_init__()

    @linen.compact
    @blames_caller
    def __call__(self, inputs: jax.Array, output_shape: Any = None) -> jax.Array:
        """Flax's own call, with its `lax.conv_transpose` exchanged."""
        # Flax would compare the mask's shape with that of an ungrouped kernel.
        mask = self.mask if groups_from(self.feature_group_count) > 1 else None
        if mask is not None:
            object.__setattr__(self, "mask", None)
        try:
            return call_layer(self, linen.ConvTranspose.__call__, inputs, output_shape, mask=mask)
        finally:
            if mask is not None:
                object.__setattr__(self, "mask", mask)

    @linen.nowrap  # else Flax takes each parameter for a method call of the user's
    def param(self, name: str, init_fn: Any, *init_args: Any, **options: Any) -> Any:
        """Flax's own, of the grouped kernel's shape."""
        if name == "kernel":
            init_args = (grouped_shape(init_args[0], self.feature_group_count), *init_args[1:])
        return super().param(name, init_fn, *init_args, **options)
