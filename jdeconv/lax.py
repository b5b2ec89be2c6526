"""`jax.lax`'s convolutions, transposed and not, with the same numbers and fast gradients."""

from typing import Any

import jax

from ._call.apply import convolve, method_for
from ._call.lax_calls import call_or_none, prepare, prepare_general
from ._errors import blames_caller, unsupported
from ._jax_operations import lax
from ._plan.choose import AUTO


@blames_caller
def conv_transpose(
    lhs: Any,
    rhs: Any,
    strides: Any,
    padding: Any,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    transpose_kernel: bool = False,
    precision: Any = None,
    preferred_element_type: Any = None,
    use_consistent_padding: bool = False,
    *,
    feature_group_count: int = 1,
    method: str = "auto",
) -> jax.Array:
    """`jax.lax.conv_transpose`: the kernel slides over the input, dilated by `strides` and padded.

    Args:
      lhs: the input, `[N, spatial..., C_in]` unless `dimension_numbers` says otherwise; any number of spatial
        dimensions. Float (16 bits or more), complex or integer.
      rhs: the kernel, `[spatial..., C_in / groups, C_out]` (`[spatial..., C_out / groups, C_in]` with
        `transpose_kernel`), same dtype.
      strides: one int a spatial dimension, in pixels.
      padding: `'SAME'` (`in*stride` pixels), `'VALID'` (`in*stride + max(k_eff - stride, 0)`, `k_eff` being
        `(k-1)*dilation + 1`), or a (low, high) pair a dimension by which the dilated input is padded (cropped if
        negative). Where all strides are 1, also any string that `jax.lax.conv_general_dilated` takes.
      rhs_dilation: one int a spatial dimension, in pixels; None (default) is 1.
      dimension_numbers: None (default: channels last), three strings, or a `jax.lax.ConvDimensionNumbers`.
      transpose_kernel: False (default) slides `rhs` as it stands. True takes it for the kernel of the strided
        convolution whose gradient this is: flipped, input and output channels swapped.
      precision: `'default'`, `'high'`, `'highest'`, a `jax.lax.Precision`, or a pair of them. A
        `jax.lax.DotAlgorithmPreset` or its name, which lax's convolutions take for the default, is the least of the
        three that keeps as many bits of the operands. A `jax.lax.DotAlgorithm` is refused. None (default) is
        `jax.default_matmul_precision`'s.
      preferred_element_type: the dtype of sums and result. Default: the dtype of `lhs`.
      use_consistent_padding: True takes pairs, like strings, for the pads of the strided convolution, as PyTorch does;
        each dimension may have a string of its own. Default False.
      feature_group_count: the number of groups, which `jax.lax.conv_transpose` lacks; divides the input and output
        channels. Default 1.
      method: `'auto'` (default: by a table of measured rules) or the formulation to use, for gradients too: `'lax'`,
        `'phase'`, `'gemm'`, `'taps'` or `'pallas'`.

    Returns: what `jax.lax.conv_transpose` returns, up to rounding.

    Raises:
      ValueError: shapes, strides, padding or groups that don't fit.
      TypeError: not an array, dtypes that differ, a layout that does not fit, entries that are no integers.
      NotImplementedError: a `method` that can't do this case (`'auto'` never raises it).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x, w = jnp.ones((1, 2, 2, 3)), jnp.ones((4, 4, 3, 5))
      >>> y = conv_transpose(x, w, (2, 2), "SAME")
      >>> y.shape, bool(jnp.allclose(y, jax.lax.conv_transpose(x, w, (2, 2), "SAME")))
      ((1, 4, 4, 5), True)

    Semantics: JAX 0.10 to 0.12 `jax.lax.conv_transpose` (tests/facades/test_lax.py).
    """
    call = prepare(
        lhs,
        rhs,
        strides,
        padding,
        rhs_dilation,
        dimension_numbers,
        transpose_kernel,
        precision,
        preferred_element_type,
        use_consistent_padding,
        feature_group_count=feature_group_count,
        method=method,
    )
    return convolve(call)


@blames_caller
def conv_general_dilated(
    lhs: Any,
    rhs: Any,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    *,
    method: str = "auto",
) -> jax.Array:
    """`jax.lax.conv_general_dilated`: the convolution that a transposed one is the transpose of, and that one too.

    A convolution with `lhs_dilation` above 1 is a transposed convolution. One without is the same operator solved for
    its input. Both have fast gradients. `jax.lax` itself computes the other calls: `window_strides` and `lhs_dilation`
    both above 1, `batch_group_count` above 1, `out_sharding`, strided symbolic sizes, weak types, 8-bit floats. It also
    refuses what does not fit, with its own errors. On a mesh with explicit axes `jax.lax` asks for `out_sharding` where
    the kernel or the input's channels are sharded; here the result's batch and space are then split as the input's, and
    its channels as the kernel's outputs.

    Args:
      lhs: the input, `[N, C_in, spatial...]` unless `dimension_numbers` says otherwise; any number of spatial
        dimensions. Float, complex or integer.
      rhs: the kernel, `[C_out, C_in / groups, spatial...]` unless `dimension_numbers` says otherwise, same dtype.
      window_strides: one int a spatial dimension, in pixels: the steps of the kernel over the padded input.
      padding: `'SAME'`, `'SAME_LOWER'`, `'VALID'`, or a (low, high) pair of pixels a dimension, negative to crop.
      lhs_dilation: one int a spatial dimension, in pixels: the input's own steps; None (default) is 1.
      rhs_dilation: one int a spatial dimension, in pixels: the steps between the kernel's taps; None (default) is 1.
      dimension_numbers: None (default: channels first), three strings, or a `jax.lax.ConvDimensionNumbers`.
      feature_group_count: the number of groups; divides the input and output channels. Default 1.
      batch_group_count: the number of groups of the batch. Default 1.
      precision: as in `conv_transpose`. Default: `jax.default_matmul_precision`'s.
      preferred_element_type: the dtype of sums and result. Default: the dtype of `lhs`.
      out_sharding: the result's sharding on a mesh with explicit axes. Default None.
      method: `'auto'` (default: by a table of measured rules) or the formulation to use, for gradients too: `'lax'`,
        `'phase'`, `'gemm'`, `'taps'` or `'pallas'`.

    Returns: what `jax.lax.conv_general_dilated` returns, up to rounding.

    Raises:
      NotImplementedError: a `method` that can't do this case (`'auto'` never raises it).
      All else: as `jax.lax.conv_general_dilated`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x, w = jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 3, 8))
      >>> y = conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
      >>> y.shape
      (1, 3, 3, 8)

    Semantics: JAX 0.10 to 0.12 `jax.lax.conv_general_dilated` (tests/facades/test_lax_conv.py).
    """
    arguments = dict(
        lhs=lhs,
        rhs=rhs,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    call = call_or_none(prepare_general, arguments | {"method": method_for(method)})
    if call is not None:
        return convolve(call)
    if method not in (AUTO, "lax"):
        raise unsupported(method, "not for this call; expected 'lax', as jax.lax computes or refuses it")
    return lax.conv_general_dilated(**arguments)  # type: ignore[no-any-return]


@blames_caller
def conv(
    lhs: Any,
    rhs: Any,
    window_strides: Any,
    padding: str,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """`jax.lax.conv`: `conv_general_dilated` in the default layout, without dilations and groups.

    Example:
      >>> import jax.numpy as jnp
      >>> conv(jnp.ones((1, 3, 5, 5)), jnp.ones((8, 3, 3, 3)), (2, 2), "SAME").shape
      (1, 8, 3, 3)
    """
    options = dict(precision=precision, preferred_element_type=preferred_element_type)
    return conv_general_dilated(lhs, rhs, window_strides, padding, **options)


@blames_caller
def conv_with_general_padding(
    lhs: Any,
    rhs: Any,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any,
    rhs_dilation: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """`jax.lax.conv_with_general_padding`: `conv_general_dilated` in the default layout, without groups.

    Example:
      >>> import jax.numpy as jnp
      >>> x, w = jnp.ones((1, 3, 5, 5)), jnp.ones((8, 3, 3, 3))
      >>> conv_with_general_padding(x, w, (1, 1), [(1, 1), (1, 1)], (2, 2), None).shape
      (1, 8, 9, 9)
    """
    options = dict(precision=precision, preferred_element_type=preferred_element_type)
    return conv_general_dilated(lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, **options)
