"""`jax.lax.conv_transpose`, with the same numbers and fast gradients."""

from typing import Any

import jax

from ._arguments import flag, int_pairs, items
from ._errors import blames_caller, refusal
from ._facade.apply import Call, Layout, method_for, transpose_conv
from ._facade.arrays import Names, precision_now, python_values, result_type
from ._facade.lax_arguments import LAX, arrays_and_layout, geometry_of, per_dimension
from ._facade.sizes import spatial_only, unreachable
from ._geometry import Geometry, Undecidable, Unreachable, build, extent
from ._jax_operations import lax

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
    return (max(total, 0) // 2, total - max(total, 0) // 2) if mode == "SAME" else (0, min(total, 0))


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
