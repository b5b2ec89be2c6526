"""Keras's transposed convolution: the arguments of `keras.ops.conv_transpose` read as layout and geometry."""

import sys
from typing import Any

import jax

from ._arguments import integers, shown, spatial
from ._call.apply import Call, convolve, method_for, tensorflow_layout
from ._call.arrays import Names, check_channels, check_kernel, precision_now, ranked_array, result_type
from ._errors import blames_caller, refusal
from ._geometry import extent, low_of_same
from ._size_errors import crop_or_refuse

NAMES = Names("inputs", "kernel", "The kernel's last dimension is the input's channels.")


@blames_caller
def conv_transpose(
    inputs: Any,
    kernel: Any,
    strides: Any = 1,
    padding: str = "valid",
    output_padding: Any = None,
    data_format: str | None = None,
    dilation_rate: Any = 1,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
    method: str = "auto",
) -> jax.Array:
    """Transposed convolution: tap `kernel[t]` adds `inputs[i]` to `output[i*strides + t*dilation_rate - low]`.

    With `k = (K-1)*dilation_rate + 1` the output sizes are, for an input of `size`:

    | `output_padding` | `'valid'` | `'same'` |
    |---|---|---|
    | None | `(size-1)*strides + max(k, strides)` | `size*strides` |
    | a number | `(size-1)*strides + k + output_padding` | `(size-1)*strides + k % 2 + output_padding` |

    and `low` is 0 for valid, `max((size-1)*strides + k - output size, 0) // 2` for same. A pure function: it may be
    jitted, batched, differentiated (to any order), sharded and exported.

    Args:
      inputs: `[N, spatial..., C_in]`, or `[N, C_in, spatial...]` for `'channels_first'`, of one to three spatial
        dimensions; float16, bfloat16, float32, float64, complex or int32, or a narrower integer with
        `preferred_element_type`. A Keras variable is JAX's array on that backend; others' are read as NumPy arrays.
      kernel: `[K..., C_out, C_in]`, same dtype as `inputs`.
      strides, dilation_rate: in pixels, at least 1; an int, or one int a spatial dimension. Default 1. Both may exceed
        1, as in `keras.ops` and not in Keras's layers.
      padding: `'valid'` (default) or `'same'`, in upper or lower case.
      output_padding: in pixels, at least 0, likewise; it may exceed the stride. None (default): see above.
      data_format: `'channels_last'` or `'channels_first'`, in upper or lower case. None (default) is what
        `keras.config.image_data_format()` says where Keras is imported already, else `'channels_last'`.
      precision, preferred_element_type, method: as in `jdeconv.conv2d_transpose`.

    Returns:
      `[N, spatial..., C_out]`, or `[N, C_out, spatial...]`, in `preferred_element_type` or else the dtype of `inputs`.
      Pixels that no tap reaches are zero.

    Raises:
      ValueError: a wrong value, such as an unknown padding.
      TypeError: a wrong kind of value, such as a float stride or operands of two dtypes.
      NotImplementedError: a `method` that can't do this case (`'auto'` never raises it).

    Example:
      >>> import jax.numpy as jnp
      >>> x, w = jnp.ones((1, 2, 2, 1)), jnp.ones((3, 3, 1, 1))
      >>> conv_transpose(x, w, strides=2, padding="same", data_format="channels_last")[0, :, 0, 0]
      Array([1., 1., 2., 1.], dtype=float32)

    Semantics: Keras 3.15's `keras.ops.conv_transpose` on its JAX, NumPy and PyTorch backends
    (`tests/facades/test_keras.py`); its TensorFlow backend refuses output sizes from which the strided convolution
    doesn't lead back.
    """
    x = ranked_array("inputs", inputs, None)
    rank = x.ndim - 2
    w = ranked_array("kernel", kernel, rank)
    dtype = result_type(NAMES, x, w, preferred_element_type)
    channel_axis = _channel_axis(data_format, rank)
    in_sizes, in_channels = spatial(x.shape, channel_axis), x.shape[channel_axis]
    *sizes, _, kernel_inputs = w.shape
    check_kernel("kernel", w, sizes, empty=False)
    check_channels(NAMES, x, in_channels, w, kernel_inputs)
    steps = integers("strides", strides, lengths=(rank,), least=1, single=False)
    dils = integers("dilation_rate", dilation_rate, lengths=(rank,), least=1, single=False)
    extra: tuple[int | None, ...] = (None,) * rank
    if output_padding is not None:
        extra = integers("output_padding", output_padding, lengths=(rank,), least=0, single=False)
    same = _is_same(padding)
    spans = [extent(k, d) for k, d in zip(sizes, dils, strict=True)]
    crops = [_crop(k, s, more, same) for k, s, more in zip(spans, steps, extra, strict=True)]
    geometry = crop_or_refuse("padding", padding, in_sizes, sizes, steps, dils, crops)
    layout = tensorflow_layout(rank, channel_axis)
    call = Call(x, w, layout, geometry, dtype, precision_now(precision), method_for(method))
    with jax.named_scope("conv_transpose"):
        return convolve(call)


def _crop(span: int, stride: int, output_padding: int | None, same: bool) -> tuple[int, int]:
    """How much of the full output is cropped at its two ends; negative: zeros added there."""
    if not same:
        return 0, -max(stride - span, 0) if output_padding is None else -output_padding
    total = span - (stride if output_padding is None else span % 2 + output_padding)
    low = low_of_same(total)
    return low, total - low


def _is_same(padding: Any) -> bool:
    if isinstance(padding, str) and padding.lower() in ("same", "valid"):
        return padding.lower() == "same"
    raise refusal(
        ValueError if isinstance(padding, str) else TypeError,
        "padding",
        shown(padding),
        "unknown",
        "expected 'valid' or 'same'",
        "Use 'valid' and slice the result where it is cut otherwise.",
    )


def _channel_axis(data_format: Any, rank: int) -> int:
    name = data_format
    if name is None:  # Keras is asked only where the caller has it: importing it takes seconds and sets its backend
        keras = sys.modules.get("keras")
        name = keras.config.image_data_format() if keras else "channels_last"
    if isinstance(name, str) and name.lower() in ("channels_last", "channels_first"):
        return 1 if name.lower() == "channels_first" else rank + 1
    raise refusal(
        ValueError,
        "data_format",
        shown(data_format),
        "unknown",
        "expected 'channels_last' or 'channels_first'",
        "Use 'channels_last' where channels are the last dimension.",
    )
