"""Flax nnx's `ConvTranspose`, trained fast."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
from flax import nnx
from flax.nnx.nn import dtypes
from flax.nnx.nn.linear import default_bias_init, default_kernel_init
from flax.typing import Dtype, Initializer, PaddingLike, PrecisionLike, PromoteDtypeFn

from ._call.apply import method_for
from ._call.arrays import python_values
from ._errors import blames_caller
from ._flax import call_layer, grouped_shape, groups_from
from ._jax_operations import jnp


class ConvTranspose(nnx.ConvTranspose):
    """`flax.nnx.ConvTranspose`, its convolution computed by jdeconv: same parameters, same outputs, fast gradients.

    It is constructed and called as Flax's layer is, with the same state and the same initial values from the same key,
    so states and checkpoints interchange. Beyond it:

    Args:
      feature_group_count: the number of groups; divides the input and output features. The kernel is
        `[*kernel_size, in_features / groups, out_features]`, or `[*kernel_size, out_features / groups, in_features]`
        with `transpose_kernel`, and so is `mask`. Default 1.
      method: the formulation: `'auto'` (default), `'lax'`, `'phase'`, `'gemm'`, `'taps'` or `'pallas'`.

    `__call__(inputs, output_shape=None)`: `output_shape` asks for spatial sizes (an int or a symbolic dimension,
    or one for each dimension) other than the default ones: any sizes that the strided convolution with that padding
    maps to the input's. Flax counts padding as `jax.lax.conv_transpose` does: by how much the dilated input is padded.

    Raises: ValueError for sizes that are not reachable, `output_shape` with CIRCULAR padding, or groups that don't
    divide; else what Flax's layer and `jdeconv.lax.conv_transpose` raise.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = ConvTranspose(4, 8, (3, 3), (2, 2), rngs=nnx.Rngs(0))
      >>> x = jnp.ones((1, 5, 5, 4))
      >>> layer(x).shape, layer(x, output_shape=(9, 9)).shape
      ((1, 10, 10, 8), (1, 9, 9, 8))

    Semantics: Flax 0.12 (tests/facades/test_nnx.py).
    """

    @blames_caller
    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = None,
        *,
        padding: PaddingLike = "SAME",
        kernel_dilation: int | Sequence[int] | None = None,
        use_bias: bool = True,
        mask: jax.Array | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike | None = None,
        kernel_init: Initializer = default_kernel_init,
        bias_init: Initializer = default_bias_init,
        transpose_kernel: bool = False,
        promote_dtype: PromoteDtypeFn = dtypes.promote_dtype,
        preferred_element_type: Dtype | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
        feature_group_count: int = 1,
        method: str = "auto",
    ) -> None:
        def init(key: jax.Array, shape: tuple[int, ...], *rest: Any, **named: Any) -> jax.Array:
            drawn: jax.Array = kernel_init(key, grouped_shape(shape, feature_group_count), *rest, **named)
            return drawn

        super().__init__(
            python_values(in_features),
            python_values(out_features),
            python_values(kernel_size),
            python_values(strides),
            padding=python_values(padding),
            kernel_dilation=python_values(kernel_dilation),
            use_bias=use_bias,
            mask=mask,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=init,
            bias_init=bias_init,
            transpose_kernel=transpose_kernel,
            promote_dtype=promote_dtype,
            preferred_element_type=preferred_element_type,
            rngs=rngs,
            kernel_metadata=kernel_metadata,
            bias_metadata=bias_metadata,
        )
        self.kernel_shape = grouped_shape(self.kernel_shape, feature_group_count)
        self.feature_group_count = groups_from(feature_group_count)
        self.method = method_for(method)

    @blames_caller
    def __call__(self, inputs: jax.Array, output_shape: Any = None) -> jax.Array:
        """Flax's own call, with its `lax.conv_transpose` exchanged."""
        return call_layer(self, nnx.ConvTranspose.__call__, inputs, output_shape)
