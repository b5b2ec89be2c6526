"""ONNX's ConvTranspose: the attributes of ONNX's operator read as layout and geometry."""

from typing import Any

import jax

from ._arguments import described, integers, shown
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
from ._call.output_shape import check_output_padding, spatial_only
from ._errors import blames_caller, either, refusal
from ._size_errors import crop_or_refuse

NAMES = Names("X", "W", "The first dimension of W is the channels of X.")
AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


@blames_caller
def conv_transpose(
    X: Any,  # noqa: N803
    W: Any,  # noqa: N803
    B: Any = None,  # noqa: N803
    *,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: Any = 1,
    kernel_shape: Any = None,
    output_padding: Any = None,
    output_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
    precision: Any = None,
    preferred_element_type: Any = None,
    method: str = "auto",
) -> jax.Array:
    """Transposed convolution: tap `W[t]` adds `X[i]` to `Y[i*strides + t*dilations - begin]`.

    A pure function: it may be jitted, batched, differentiated (to any order), sharded and exported.

    Args:
      X: `[N, C, spatial...]`, of one to three spatial dimensions; float16, bfloat16, float32, float64, complex or
        int32, or a narrower integer with `preferred_element_type`.
      W: `[C, M / group, kernel...]`, same dtype as `X`.
      B: `[M]`, same dtype, or None (default). Added, and its gradient summed, in float32 at least.
      auto_pad: `'NOTSET'` (default: as `pads` says), `'VALID'` (no pads), `'SAME_UPPER'` or `'SAME_LOWER'` (outputs of
        `size*strides`; an odd pad goes to the end or to the beginning).
      dilations, strides: in pixels, at least 1; one int a spatial dimension. None (default): 1.
      group: the number of groups of channels, at least 1, a divisor of C. Default 1.
      kernel_shape: must equal the spatial sizes of `W`. None (default): taken from `W`.
      output_padding: pixels added at the end, at least 0 and less than the larger of stride and
        dilation, one a dimension. None (default): 0. With `output_shape` or SAME it only moves the pads.
      output_shape: the spatial sizes of the result, without batch and channels. `pads` are then ignored: the total of
        `(size-1)*strides + output_padding + (kernel-1)*dilations + 1 - output_shape` is split, an odd pad going to the
        beginning, or to the end for SAME_UPPER; negative, it is split likewise, and pixels that no tap reaches are
        added. None (default): as auto_pad and pads say.
      pads: pixels cropped, at least 0: the beginnings of all dimensions, then the ends. None (default): 0.
        Not together with an `auto_pad` other than NOTSET.
      precision, preferred_element_type, method: as in `jdeconv.conv2d_transpose`.
      Wherever one int a dimension is asked for, a single int stands for all dimensions.

    Returns:
      `[N, M, spatial...]`, in `preferred_element_type` or else the dtype of `X`. Without `output_shape` and SAME the
      sizes are `(size-1)*strides + output_padding + (kernel-1)*dilations + 1 - begin - end`.

    Raises:
      ValueError: a wrong value, such as pads that leave less than 0 pixels.
      TypeError: a wrong kind of value, such as a traced `output_shape` or operands of two dtypes.
      NotImplementedError: a `method` that can't do this case (`'auto'` never raises it).

    Example:
      >>> import jax.numpy as jnp
      >>> X, W = jnp.ones((1, 1, 2)), jnp.ones((1, 1, 3))
      >>> conv_transpose(X, W, strides=[2], auto_pad="SAME_UPPER")[0, 0]
      Array([1., 1., 2., 1.], dtype=float32)
      >>> conv_transpose(X, W, strides=[2], output_shape=[6])[0, 0]
      Array([1., 1., 2., 1., 1., 0.], dtype=float32)

    Semantics: the ONNX standard's ConvTranspose (operator set 22) and its node tests (`tests/facades/test_onnx.py`), in
    which a total of -1 leaves the beginning as it is, so halves are rounded down. ONNX Runtime 1.32 differs where the
    total is negative: with SAME it gives `(size-1)*strides + (kernel-1)*dilations + 1` instead of `size*strides`, it
    puts the pixels that `output_shape` adds at the end, and it refuses as many as a stride or more. It also refuses
    empty results, and an `output_padding` that only the dilation exceeds.
    """
    x = ranked_array("X", X, None)
    rank = x.ndim - 2
    w = ranked_array("W", W, rank)
    dtype = result_type(NAMES, x, w, preferred_element_type)
    in_channels, *in_sizes = x.shape[1:]
    weight_inputs, group_outputs, *kernel = w.shape
    check_kernel("W", w, kernel, empty=False)
    check_channels(NAMES, x, in_channels, w, weight_inputs)
    steps = _ints("strides", strides, rank, least=1)
    dils = _ints("dilations", dilations, rank, least=1)
    extra = _ints("output_padding", output_padding, rank)
    check_output_padding(output_padding, extra, steps, dils, "strides and dilations")
    _check_kernel_shape(kernel_shape, w, tuple(kernel))
    groups = groups_for("group", group, in_channels)
    bias = bias_for("B", B, groups * group_outputs, "X", x)
    given = _ints("pads", pads, 2 * rank)
    _check_auto_pad(auto_pad, pads)
    if output_shape is None and not auto_pad.startswith("SAME"):
        source = ("pads", pads)
        crops = [(low, high - more) for low, high, more in zip(given[:rank], given[rank:], extra, strict=True)]
    else:
        source = ("output_shape", output_shape)
        if output_shape is None:
            sizes: tuple[Any, ...] = tuple(i * s for i, s in zip(in_sizes, steps, strict=True))
        else:
            sizes = spatial_only(output_shape, rank, single=False)
        crops = [
            _split((i - 1) * s + more + (k - 1) * d + 1 - size, more, auto_pad)
            for i, s, more, k, d, size in zip(in_sizes, steps, extra, kernel, dils, sizes, strict=True)
        ]
    geometry = crop_or_refuse(*source, in_sizes, kernel, steps, dils, crops)
    call = Call(x, w, torch_layout(rank, groups), geometry, dtype, precision_now(precision), method_for(method))
    with jax.named_scope("ConvTranspose"):
        return with_bias(convolve(call), bias, 1)


def _ints(name: str, value: Any, count: int, least: int = 0) -> tuple[int, ...]:
    return integers(name, least if value is None else value, lengths=(count,), least=least, single=False)


def _split(total: Any, output_padding: int, auto_pad: str) -> tuple[Any, Any]:
    """The crops at the beginning and at the end; `output_padding` is a part of the total, at the end."""
    begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
    return begin, total - begin - output_padding


def _check_kernel_shape(kernel_shape: Any, w: jax.Array, kernel: tuple[int, ...]) -> None:
    if kernel_shape is not None and _ints("kernel_shape", kernel_shape, len(kernel)) != kernel:
        raise refusal(
            ValueError,
            "kernel_shape",
            shown(kernel_shape),
            "not the kernel's",
            f"expected {list(kernel)}, as W={described(w)} has",
            "Leave it out, as W says it.",
        )


def _check_auto_pad(auto_pad: Any, pads: Any) -> None:
    if not isinstance(auto_pad, str) or auto_pad not in AUTO_PADS:
        raise refusal(
            ValueError,
            "auto_pad",
            shown(auto_pad),
            "unknown",
            f"expected {either(map(repr, AUTO_PADS))}",
            "Use 'NOTSET', the default, with pads.",
        )
    if auto_pad != "NOTSET" and pads is not None:
        raise refusal(
            ValueError,
            "pads",
            shown(pads),
            f"auto_pad={auto_pad!r} is given too",
            "expected one of the two",
            "Drop pads, or auto_pad.",
        )
