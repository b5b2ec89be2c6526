"""TensorFlow's transposed convolutions: its arguments read as layout and geometry."""

from typing import Any

import jax

from ._arguments import described, items, shown, spatial, spatial_steps, tensorflow_padding
from ._call.apply import Call, convolve, method_for, tensorflow_layout
from ._call.arrays import Names, check_channels, check_kernel, precision_now, ranked_array, result_type
from ._call.output_shape import implied_groups, spatial_and_channels
from ._errors import blames_caller, refusal
from ._geometry import Undecidable, Unreachable, build
from ._size_errors import unreachable

DATA_FORMATS = {1: ("NWC", "NCW"), 2: ("NHWC", "NCHW"), 3: ("NDHWC", "NCDHW")}


@blames_caller
def conv2d_transpose(
    value: Any = None,
    filter: Any = None,
    output_shape: Any = None,
    strides: Any = None,
    padding: Any = "SAME",
    data_format: str | None = "NHWC",
    name: str | None = None,
    input: Any = None,
    filters: Any = None,
    dilations: Any = None,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
    method: str = "auto",
) -> jax.Array:
    """Transposed 2-D convolution: tap `filter[t]` adds `value[i]` to `output[i*strides + t*dilations - low]`.

    `low` is 0 for VALID, the low pad for explicit padding, and `max((in-1)*stride + (k-1)*dilation + 1 - out, 0) // 2`
    for SAME. A pure function: it may be jitted, batched, differentiated (to any order), sharded and exported.

    Args:
      value: `[N, H, W, C_in]` (`[N, C_in, H, W]` for `'NCHW'`); float16, bfloat16, float32, float64, complex or int32,
        or a narrower integer with `preferred_element_type`. Tensors and variables of TensorFlow and other libraries are
        read as NumPy arrays, so a `GradientTape` sees nothing of the call. `input` is an alias; give one of the two.
      filter: `[K_h, K_w, C_out / groups, C_in]`, same dtype as `value`. `filters` is an alias.
      output_shape: the full shape in the order of `data_format`, or the two spatial sizes; ints known at trace time
        (or symbolic dimensions). A batch of -1 stands for N. C_out / `filter.shape[2]` is the number of groups.
        None (the default): `H*strides` (SAME), `(H-1)*strides + (K_h-1)*dilations + 1` (VALID), the smallest reachable
        size (explicit padding), and one group. All numbers may also be arrays; JAX's must not be traced.
      strides, dilations: in pixels; an int, or 1, 2 or 4 ints, with 1 for N and C. None (the default) is 1.
      padding: `'SAME'` (default), `'VALID'`, or four pairs in the order of `data_format`, such as
        `[[0, 0], [top, bottom], [left, right], [0, 0]]`, in pixels.
      data_format: `'NHWC'` (default; None is the same) or `'NCHW'`.
      name: the `jax.named_scope` of the operation, as profilers show it. Default `'conv2d_transpose'`.
      precision: `'default'`, `'high'`, `'highest'`, a `jax.lax.Precision`, or a pair of them for value and filter; or a
        `jax.lax.DotAlgorithmPreset`: the least of the three that keeps as many bits. None (the default) is
        `jax.default_matmul_precision`'s.
      preferred_element_type: the dtype of sums and result, of the same kind as `value`'s. Default: `value`'s own.
      method: `'auto'` (default: by a table of measured rules, see `explain`) or the formulation to use, for gradients
        too: `'lax'`, `'phase'`, `'gemm'`, `'taps'` or `'pallas'`.

    Returns:
      An array of `output_shape`, in `preferred_element_type` or else the dtype of `value`. Pixels that no tap reaches
      are zero.

    Raises:
      ValueError: a wrong value, such as a size that strides and padding can't produce (see `output_sizes`).
      TypeError: a wrong kind of value, such as a traced `output_shape` or operands of two dtypes.
      NotImplementedError: a `method` that can't do this case (`'auto'` never raises it).

    Example:
      >>> import jax.numpy as jnp
      >>> x, w = jnp.ones((1, 2, 2, 1)), jnp.ones((3, 3, 1, 1))
      >>> conv2d_transpose(x, w, (1, 4, 4, 1), strides=2)[0, :, 0, 0]
      Array([1., 1., 2., 1.], dtype=float32)

    Semantics: TensorFlow 2.21's `tf.compat.v1.nn.conv2d_transpose`, call by call (`tests/facades/test_tf.py`).
    """
    value_name, value = one_of("value", value, "input", input)
    filter_name, filter = one_of("filter", filter, "filters", filters)
    options = dict(precision=precision, preferred_element_type=preferred_element_type, method=method)
    return _transposed(
        2,
        value,
        filter,
        output_shape,
        strides,
        padding,
        data_format,
        dilations,
        "conv2d_transpose" if name is None else name,
        (value_name, filter_name),
        **options,
    )


@blames_caller
def conv1d_transpose(
    input: Any,
    filters: Any,
    output_shape: Any,
    strides: Any,
    padding: Any = "SAME",
    data_format: str | None = "NWC",
    dilations: Any = None,
    name: str | None = None,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
    method: str = "auto",
) -> jax.Array:
    """Transposed 1-D convolution: `conv2d_transpose` with one spatial dimension.

    Args:
      input: `[N, W, C_in]` (`[N, C_in, W]` for `'NCW'`).
      filters: `[K, C_out / groups, C_in]`, same dtype as `input`.
      output_shape: the full shape in the order of `data_format`, the one spatial size in a sequence, or None for the
        default size.
      strides, dilations: in samples; an int, or 1 or 3 ints, with 1 for N and C. None is 1.
      padding: `'SAME'` (default), `'VALID'`, or three pairs in the order of `data_format`.
      data_format: `'NWC'` (default; None is the same) or `'NCW'`.
      name, precision, preferred_element_type, method: as in `conv2d_transpose`.

    Returns: an array of `output_shape`. Raises: as `conv2d_transpose`.

    Example:
      >>> import jax.numpy as jnp
      >>> conv1d_transpose(jnp.ones((1, 2, 1)), jnp.ones((3, 1, 1)), (1, 5, 1), 2, padding="VALID")[0, :, 0]
      Array([1., 1., 2., 1., 1.], dtype=float32)

    Semantics: TensorFlow 2.21's `tf.nn.conv1d_transpose`; explicit padding and a spatial `output_shape` go beyond it.
    """
    options = dict(precision=precision, preferred_element_type=preferred_element_type, method=method)
    return _transposed(
        1,
        input,
        filters,
        output_shape,
        strides,
        padding,
        data_format,
        dilations,
        "conv1d_transpose" if name is None else name,
        **options,
    )


@blames_caller
def conv3d_transpose(
    input: Any,
    filters: Any,
    output_shape: Any,
    strides: Any,
    padding: Any = "SAME",
    data_format: str | None = "NDHWC",
    dilations: Any = None,
    name: str | None = None,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
    method: str = "auto",
) -> jax.Array:
    """Transposed 3-D convolution: `conv2d_transpose` with three spatial dimensions.

    Args:
      input: `[N, D, H, W, C_in]` (`[N, C_in, D, H, W]` for `'NCDHW'`).
      filters: `[K_d, K_h, K_w, C_out / groups, C_in]`, same dtype as `input`.
      output_shape: the full shape in the order of `data_format`, the three spatial sizes, or None for the default ones.
      strides, dilations: in voxels; an int, or 1, 3 or 5 ints, with 1 for N and C. None is 1.
      padding: `'SAME'` (default), `'VALID'`, or five pairs in the order of `data_format`.
      data_format: `'NDHWC'` (default; None is the same) or `'NCDHW'`.
      name, precision, preferred_element_type, method: as in `conv2d_transpose`.

    Returns: an array of `output_shape`. Raises: as `conv2d_transpose`.

    Example:
      >>> import jax.numpy as jnp
      >>> x, w = jnp.ones((1, 2, 2, 2, 3)), jnp.ones((2, 2, 2, 4, 3))
      >>> conv3d_transpose(x, w, (1, 4, 4, 4, 4), 2).shape
      (1, 4, 4, 4, 4)

    Semantics: TensorFlow 2.21's `tf.nn.conv3d_transpose`; explicit padding and a spatial `output_shape` go beyond it.
    """
    options = dict(precision=precision, preferred_element_type=preferred_element_type, method=method)
    return _transposed(
        3,
        input,
        filters,
        output_shape,
        strides,
        padding,
        data_format,
        dilations,
        "conv3d_transpose" if name is None else name,
        **options,
    )


@blames_caller
def conv_transpose(
    input: Any,
    filters: Any,
    output_shape: Any,
    strides: Any,
    padding: Any = "SAME",
    data_format: str | None = None,
    dilations: Any = None,
    name: str | None = None,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
    method: str = "auto",
) -> jax.Array:
    """Transposed convolution with one, two or three spatial dimensions, as many as `input` has.

    Args:
      input: `[N, spatial..., C_in]`, or `[N, C_in, spatial...]` where `data_format` starts with `'NC'`.
      filters: `[spatial..., C_out / groups, C_in]`, same dtype as `input`.
      output_shape: the full shape in the order of `data_format`, or None for the default size.
      strides, padding, data_format, dilations, name, precision, preferred_element_type, method: as in
        `conv1d_transpose`, `conv2d_transpose` or `conv3d_transpose`.

    Returns: an array of `output_shape`. Raises: as `conv2d_transpose`.

    Example:
      >>> import jax.numpy as jnp
      >>> conv_transpose(jnp.ones((1, 2, 1)), jnp.ones((2, 1, 1)), None, 2)[0, :, 0]
      Array([1., 1., 1., 1.], dtype=float32)

    Semantics: TensorFlow 2.21's `tf.nn.conv_transpose`; `output_shape=None` goes beyond it.
    """
    rank = ranked_array("input", input, None).ndim - 2
    sizes = items(output_shape)
    if sizes is not None and len(sizes) != rank + 2:
        raise refusal(
            ValueError,
            "output_shape",
            shown(output_shape),
            f"length {len(sizes)}",
            f"expected the full shape, of length {rank + 2} as the input's",
            "Add batch and channels, or call the function of one rank, which takes the spatial sizes alone.",
        )
    options = dict(precision=precision, preferred_element_type=preferred_element_type, method=method)
    return _transposed(
        rank,
        input,
        filters,
        output_shape,
        strides,
        padding,
        data_format,
        dilations,
        "conv_transpose" if name is None else name,
        **options,
    )


def _transposed(
    rank: int,
    value: Any,
    filter: Any,
    output_shape: Any,
    strides: Any,
    padding: Any,
    data_format: Any,
    dilations: Any,
    scope: Any,
    spelt: tuple[str, str] = ("input", "filters"),
    **options: Any,
) -> jax.Array:
    """All four functions."""
    call = prepare(rank, value, filter, output_shape, strides, padding, data_format, dilations, scope, spelt, **options)
    with jax.named_scope(scope):
        return convolve(call)


def prepare(
    rank: int,
    value: Any,
    filter: Any,
    output_shape: Any,
    strides: Any,
    padding: Any,
    data_format: Any,
    dilations: Any,
    scope: Any,
    spelt: tuple[str, str],
    *,
    precision: Any,
    preferred_element_type: Any,
    method: Any,
) -> Call:
    """All checks; what is left is `convolve`. `spelt` is how the caller spells `value` and `filter`."""
    mend = "The filter's last dimension is the input's channels, the one before it the output's."
    names = Names(*spelt, channels=mend)
    channel_axis = _channel_axis(data_format, rank)
    value = ranked_array(names.input, value, rank)
    filter = ranked_array(names.kernel, filter, rank)
    dtype = result_type(names, value, filter, preferred_element_type)
    steps = spatial_steps("strides", strides, rank, channel_axis)
    dils = spatial_steps("dilations", dilations, rank, channel_axis)
    pads = tensorflow_padding(padding, rank, channel_axis)
    batch, in_sizes, in_channels = value.shape[0], spatial(value.shape, channel_axis), value.shape[channel_axis]
    *kernel, group_channels, filter_inputs = filter.shape
    check_kernel(names.kernel, filter, kernel)
    check_channels(names, value, in_channels, filter, filter_inputs)
    out_sizes, out_channels = spatial_and_channels(output_shape, rank, batch, group_channels, channel_axis)
    groups = implied_groups(output_shape, rank, out_channels, group_channels, in_channels, names.kernel)
    try:
        geometry = build(in_sizes, kernel, steps, dils, pads, out_sizes)
    except (Unreachable, Undecidable) as error:
        raise unreachable(error, "output_shape", output_shape, padding, in_sizes, steps, out_sizes) from None
    layout = tensorflow_layout(rank, channel_axis, groups)
    call = Call(value, filter, layout, geometry, dtype, precision_now(precision), method_for(method))
    if not isinstance(scope, str):
        raise refusal(TypeError, "name", shown(scope), "not a string", "expected the name of a scope", "Use None.")
    return call


def one_of(name: str, value: Any, alias: str, aliased: Any) -> tuple[str, Any]:
    """The name and the value of an argument or its alias, whichever is given."""
    if aliased is None:
        return name, value
    if value is not None:
        raise refusal(
            ValueError,
            alias,
            described(aliased),
            f"{name!r} is given too",
            "expected one of the two",
            f"Cannot specify both {name!r} and {alias!r}; drop {alias!r}.",
        )
    return alias, aliased


def _channel_axis(data_format: Any, rank: int) -> int:
    last, first = DATA_FORMATS[rank]
    if data_format is None or (isinstance(data_format, str) and data_format in (last, first)):
        return 1 if data_format == first else rank + 1
    raise refusal(
        ValueError,
        "data_format",
        shown(data_format),
        "unknown",
        f"expected {last!r} or {first!r}",
        f"Use {last!r}, the default, where channels are the last dimension.",
    )
