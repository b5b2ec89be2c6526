"""PyTorch's transposed convolutions: the arguments of `torch.nn.functional` read as layout and geometry."""

from typing import Any

import jax
import numpy as np

from ._arguments import described, integers
from ._call.apply import Call, convolve, method_for, torch_layout, with_bias
from ._call.arrays import (
    Names,
    bias_for,
    check_channels,
    check_kernel,
    groups_for,
    precision_now,
    ranked_array,
    result_type,
)
from ._call.output_shape import check_output_padding
from ._dtypes import DTYPES
from ._errors import blames_caller, refusal
from ._size_errors import crop_or_refuse

NAMES = Names("input", "weight", "The first dimension of weight is the input's channels.")


@blames_caller
def conv_transpose1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
    method: str = "auto",
) -> jax.Array:
    """Transposed 1-D convolution: `conv_transpose2d` with one spatial dimension.

    Args:
      input: `[N, C_in, W]`, or `[C_in, W]` without a batch.
      weight: `[C_in, C_out / groups, K]`, same dtype as `input`.
      bias: `[C_out]`, same dtype, or None (default).
      stride, padding, output_padding, dilation: in samples; an int, or a sequence of one.
      groups, precision, preferred_element_type, method: as in `conv_transpose2d`.

    Returns: `[N, C_out, W_out]`, or `[C_out, W_out]`. Raises: as `conv_transpose2d`.

    Example:
      >>> import jax.numpy as jnp
      >>> conv_transpose1d(jnp.ones((1, 1, 2)), jnp.ones((1, 1, 3)), stride=2)[0, 0]
      Array([1., 1., 2., 1., 1.], dtype=float32)

    Semantics: PyTorch 2.13's `torch.nn.functional.conv_transpose1d` (`tests/facades/test_torch.py`).
    """
    options = dict(precision=precision, preferred_element_type=preferred_element_type, method=method)
    return _transposed(1, input, weight, bias, stride, padding, output_padding, groups, dilation, **options)


@blames_caller
def conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
    method: str = "auto",
) -> jax.Array:
    """Transposed 2-D convolution: tap `weight[t]` adds `input[i]` to `output[i*stride + t*dilation - padding]`.

    A pure function: it may be jitted, batched, differentiated (to any order), sharded and exported.

    Args:
      input: `[N, C_in, H, W]`, or `[C_in, H, W]` without a batch; float16, bfloat16, float32, float64, complex or
        int32 (int64 with `jax_enable_x64`), or a narrower integer with `preferred_element_type`. Only the batch may be
        empty. A tensor or parameter of PyTorch is read as a NumPy array, from any device: JAX computes the gradients,
        and PyTorch's autograd sees nothing of the call.
      weight: `[C_in, C_out / groups, K_h, K_w]`, same dtype as `input`.
      bias: `[C_out]`, same dtype, or None (default). Added, and its gradient summed, in float32 at least.
      stride, dilation: in pixels, at least 1; an int, or one or two ints. Default 1.
      padding: pixels cropped at either end, likewise, at least 0. Default 0.
      output_padding: rows and columns added at the end, likewise, at least 0 and less than the larger of stride and
        dilation. Default 0.
      groups: the number of groups of channels, at least 1, a divisor of C_in. Default 1.
      precision: `'default'`, `'high'`, `'highest'`, a `jax.lax.Precision`, or a pair of them for input and weight. None
        (the default) is `jax.default_matmul_precision`'s.
      preferred_element_type: the dtype of sums and result, of the same kind as `input`'s. Default: `input`'s own.
      method: `'auto'` (default: by a table of measured rules, see `jdeconv.explain`) or the formulation to use, for
        gradients too: `'lax'`, `'phase'`, `'gemm'`, `'taps'` or `'pallas'`.

    Returns:
      `[N, C_out, H_out, W_out]`, or `[C_out, H_out, W_out]` for an input without a batch, where
      `H_out = (H-1)*stride - 2*padding + (K_h-1)*dilation + output_padding + 1`, in `preferred_element_type` or else
      the dtype of `input`. Pixels that no tap reaches are the bias.

    Raises:
      ValueError: a wrong value, such as an `output_padding` that is too large, or a padding that leaves less than 0.
      TypeError: a wrong kind of value, such as a float stride or operands of two dtypes.
      NotImplementedError: a `method` that can't do this case (`'auto'` never raises it).

    Example:
      >>> import jax.numpy as jnp
      >>> x, w = jnp.ones((1, 1, 2, 2)), jnp.ones((1, 1, 3, 3))
      >>> conv_transpose2d(x, w, stride=2, padding=1, output_padding=1)[0, 0, 0]
      Array([1., 2., 1., 1.], dtype=float32)

    Semantics: PyTorch 2.13's `torch.nn.functional.conv_transpose2d`, with its arguments, their order and its refusals
    (`tests/facades/test_torch.py`); arrays for the four integer arguments, lists for operands, int32, and results of
    size 0 (which PyTorch refuses in float64) go beyond it. Without `jax_enable_x64`, int64 operands are refused rather
    than narrowed. An `output_padding` that is too large is refused beside an empty batch, too.
    """
    options = dict(precision=precision, preferred_element_type=preferred_element_type, method=method)
    return _transposed(2, input, weight, bias, stride, padding, output_padding, groups, dilation, **options)


@blames_caller
def conv_transpose3d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
    method: str = "auto",
) -> jax.Array:
    """Transposed 3-D convolution: `conv_transpose2d` with three spatial dimensions.

    Args:
      input: `[N, C_in, D, H, W]`, or `[C_in, D, H, W]` without a batch.
      weight: `[C_in, C_out / groups, K_d, K_h, K_w]`, same dtype as `input`.
      bias: `[C_out]`, same dtype, or None (default).
      stride, padding, output_padding, dilation: in voxels; an int, or one or three ints.
      groups, precision, preferred_element_type, method: as in `conv_transpose2d`.

    Returns: `[N, C_out, D_out, H_out, W_out]`, or `[C_out, D_out, H_out, W_out]`. Raises: as `conv_transpose2d`.

    Example:
      >>> import jax.numpy as jnp
      >>> conv_transpose3d(jnp.ones((3, 2, 2, 2)), jnp.ones((3, 4, 2, 2, 2)), stride=2).shape
      (4, 4, 4, 4)

    Semantics: PyTorch 2.13's `torch.nn.functional.conv_transpose3d` (`tests/facades/test_torch.py`).
    """
    options = dict(precision=precision, preferred_element_type=preferred_element_type, method=method)
    return _transposed(3, input, weight, bias, stride, padding, output_padding, groups, dilation, **options)


def _transposed(
    rank: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    *,
    precision: Any,
    preferred_element_type: Any,
    method: str,
) -> jax.Array:
    dtypes = (*DTYPES, np.dtype("int64")) if jax.config.jax_enable_x64 else DTYPES  # type: ignore[attr-defined]
    x = ranked_array("input", input, rank, unbatched=True, dtypes=dtypes)
    w = ranked_array("weight", weight, rank, dtypes=dtypes)
    dtype = result_type(NAMES, x, w, preferred_element_type)
    in_channels, *in_sizes = x.shape[-rank - 1 :]
    weight_inputs, group_outputs, *kernel = w.shape
    check_kernel("weight", w, kernel)
    _check_not_empty("input", x, (in_channels, *in_sizes))
    _check_not_empty("weight", w, w.shape)
    check_channels(NAMES, x, in_channels, w, weight_inputs)
    strides = integers("stride", stride, lengths=(rank,), least=1)
    pads = integers("padding", padding, lengths=(rank,), least=0)
    extra = integers("output_padding", output_padding, lengths=(rank,), least=0)
    dilations = integers("dilation", dilation, lengths=(rank,), least=1)
    check_output_padding(output_padding, extra, strides, dilations, "stride and dilation")
    count = groups_for("groups", groups, in_channels)
    b = bias_for("bias", bias, count * group_outputs, "input", x, dtypes)
    crops = [(pad, pad - more) for pad, more in zip(pads, extra, strict=True)]
    geometry = crop_or_refuse("padding", padding, in_sizes, kernel, strides, dilations, crops)
    precision, method = precision_now(precision), method_for(method)
    unbatched = x.ndim == rank + 1
    with jax.named_scope(f"conv_transpose{rank}d"):
        x = x[None] if unbatched else x
        y = convolve(Call(x, w, torch_layout(rank, count), geometry, dtype, precision, method))
        y = with_bias(y, b, 1)
        return y[0] if unbatched else y


def _check_not_empty(name: str, operand: jax.Array, sizes: tuple[Any, ...]) -> None:
    if any(isinstance(size, int) and size == 0 for size in sizes):
        raise refusal(
            ValueError,
            name,
            described(operand),
            "an empty dimension",
            "expected sizes of at least 1, but for the batch",
            "Leave the call out: its result is the bias alone, or empty.",
        )
