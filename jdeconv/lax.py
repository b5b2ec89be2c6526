"""`jax.lax`'s convolutions, transposed and not, with the same numbers and fast gradients."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ._arguments import flag, int_pairs, items
from ._call.apply import Call, Layout, method_for, transpose_conv
from ._call.arrays import Names, precision_now, python_values, result_type
from ._call.lax_arguments import LAX, arrays_and_layout, geometry_of, per_dimension, strided_geometry_of
from ._call.output_shape import spatial_only
from ._errors import blames_caller, refusal, unsupported
from ._geometry import Geometry, Undecidable, Unreachable, build, extent, low_of_same
from ._jax_operations import lax
from ._plan.choose import AUTO
from ._size_errors import unreachable

MODES = ("SAME", "VALID")
# lax's layouts where dimension_numbers is None, by the number of dimensions.
LAYOUTS = {
    2: ("NC", "IO", "NC"),
    3: ("NHC", "HIO", "NHC"),
    4: ("NHWC", "HWIO", "NHWC"),
    5: ("NHWDC", "HWDIO", "NHWDC"),
}


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
    return transpose_conv(call)


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
    both above 1, `batch_group_count` above 1, `out_sharding`, strided symbolic sizes, dtypes of 8-bit floats. It also
    refuses what does not fit, with its own errors.

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
        return transpose_conv(call)
    if method not in (AUTO, "lax"):
        raise unsupported(method, "is not for this call, which jax.lax computes or refuses")
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


def call_or_none(prepare: Callable[..., Call | None], arguments: Mapping[str, Any]) -> Call | None:
    """The call that `prepare` makes of lax's arguments; None where lax itself has to compute or refuse it.

    lax has to where the result would not have lax's type: weak types, and layouts of input and output that differ on
    a mesh with explicit axes, which go by their position.
    """
    try:
        call = prepare(**arguments)
    except (TypeError, ValueError):
        return None
    if call is None:
        return None
    types = [jax.typeof(operand) for operand in (call.x, call.w)]
    explicit = any(kind.sharding.mesh.explicit_axes for kind in types)
    weak = all(kind.weak_type for kind in types)
    return None if weak or (explicit and call.layout.input != call.layout.output) else call


def prepare_general(
    lhs: Any,
    rhs: Any,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: Any = 1,
    batch_group_count: Any = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    method: str = AUTO,
) -> Call | None:
    """The call of `jax.lax.conv_general_dilated`'s arguments; None if the operator can't be it.

    Raises TypeError or ValueError where they don't fit.
    """
    rank = getattr(lhs, "ndim", 2) - 2
    sliding = per_dimension("window_strides", window_strides, rank)
    inner = (1,) * rank if lhs_dilation is None else per_dimension("lhs_dilation", lhs_dilation, rank)
    dilations = (1,) * rank if rhs_dilation is None else per_dimension("rhs_dilation", rhs_dilation, rank)
    dilated = max(inner, default=1) > 1
    if (dilated and max(sliding) > 1) or batch_group_count != 1 or out_sharding is not None:
        return None
    x, w, layout = arrays_and_layout(lhs, rhs, dimension_numbers, feature_group_count, dilated=dilated)
    if isinstance(padding, str) and not dilated:
        extents = map(extent, layout.kernel_sizes(w), dilations)
        pads = tuple(lax.padtype_to_pads(layout.input_sizes(x), tuple(extents), sliding, padding))
    else:
        pads = int_pairs(padding, rank, least=None)
    if dilated:
        geometry = geometry_of(x, w, layout, inner, dilations, pads)
    else:
        geometry = strided_geometry_of(x, w, layout, sliding, dilations, pads)
    dtype = result_type(LAX, x, w, preferred_element_type, like_lax=True)
    result = "output" if dilated else "input"
    return Call(x, w, layout, geometry, dtype, precision_now(precision), method, result)


def prepare(
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
    output_shape: Any = None,
    names: Names = LAX,
) -> Call:
    """All checks; what is left is `transpose_conv`. `output_shape` asks for spatial sizes other than the default."""
    ndim = getattr(lhs, "ndim", 0)
    if dimension_numbers is None and ndim > max(LAYOUTS):
        raise refusal(
            ValueError,
            "dimension_numbers",
            None,
            f"no default for the {ndim} dimensions of lhs",
            f"expected a layout beyond {max(LAYOUTS)} dimensions",
            "Name it, as in ('NWXYZC', 'WXYZIO', 'NWXYZC').",
        )
    dimension_numbers = LAYOUTS.get(ndim) if dimension_numbers is None else dimension_numbers
    transpose_kernel = flag("transpose_kernel", transpose_kernel)
    x, w, layout = arrays_and_layout(lhs, rhs, dimension_numbers, feature_group_count, transpose_kernel, names)
    steps = per_dimension("strides", strides, layout.rank)
    dilations = (1,) * layout.rank
    if rhs_dilation is not None:
        dilations = per_dimension(names.dilations, rhs_dilation, layout.rank)
    if output_shape is None:
        extents = tuple(map(extent, layout.kernel_sizes(w), dilations))
        pads = _pads(padding, extents, steps, flag("use_consistent_padding", use_consistent_padding))
        geometry = geometry_of(x, w, layout, steps, dilations, pads, names=names)
    else:
        geometry = _sized(x, w, layout, steps, dilations, padding, output_shape)
    dtype = result_type(names, x, w, preferred_element_type, like_lax=True)
    return Call(x, w, layout, geometry, dtype, precision_now(precision), method_for(method))


def _pads(
    padding: Any, extents: tuple[int, ...], strides: tuple[int, ...], consistent: bool
) -> tuple[tuple[int, int], ...]:
    """By how much the dilated input is padded in each dimension."""
    rank = len(strides)
    padding = python_values(padding)
    unstrided = isinstance(padding, str) and not consistent and set(strides) <= {1}
    if unstrided and padding not in MODES and padding.upper() in ("SAME", "SAME_LOWER", "VALID"):
        return tuple(lax.padtype_to_pads([1] * rank, extents, strides, padding))  # as for a convolution
    if _is_mode(padding):
        padding, consistent = [padding] * rank, True
    if not consistent or len(items(padding) or ()) != rank:
        return int_pairs(padding, rank, least=None)
    entries = zip(padding, extents, strides, strict=True)
    pairs = int_pairs([_forward(p, e, s) if _is_mode(p) else p for p, e, s in entries], rank, least=None)
    return tuple((e - 1 - low, e - 1 - high) for e, (low, high) in zip(extents, pairs, strict=True))


def _is_mode(padding: Any) -> bool:
    return isinstance(padding, str) and padding in MODES


def _forward(mode: str, extent: int, stride: int) -> tuple[int, int]:
    """The pads of the strided convolution whose transpose gives lax's default size; a negative one adds to that."""
    total = extent - stride
    low = low_of_same(total)
    return (low, total - low) if mode == "SAME" else (0, min(total, 0))


def _sized(
    x: jax.Array,
    w: jax.Array,
    layout: Layout,
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    padding: Any,
    output_shape: Any,
) -> Geometry:
    """The geometry of the output sizes asked for: any that the strided convolution maps to the input's."""
    inputs, kernel = layout.input_sizes(x), layout.kernel_sizes(w)
    sizes = spatial_only(output_shape, layout.rank)
    pads = padding
    if not _is_mode(padding):
        pairs = int_pairs(padding, layout.rank, least=None)
        extents = map(extent, kernel, dilations)
        pads = tuple((e - 1 - low, e - 1 - high) for e, (low, high) in zip(extents, pairs, strict=True))
    try:
        return build(inputs, kernel, strides, dilations, pads, sizes)
    except (Unreachable, Undecidable) as error:
        raise unreachable(error, "output_shape", output_shape, padding, inputs, strides, sizes) from None
