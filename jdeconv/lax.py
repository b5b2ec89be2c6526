"""`jax.lax.conv_transpose`, with the same numbers and fast gradients."""

from typing import Any

import jax

from ._arguments import flag, int_pairs, items
from ._errors import blames_caller, refusal
from ._facade import output_shape as output_shapes
from ._facade.arrays import method_for, plain, precision_now
from ._facade.lax_arguments import LAX, Names, Operands, geometry_of, lax_result_type, operands, steps
from ._facade.unreachable import worded
from ._geometry import Geometry, Undecidable, Unreachable, build, extent
from ._jax_operations import lax

MODES = ("SAME", "VALID")
# What lax takes None for, by the number of dimensions.
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
        `(k-1)*dilation + 1`), or a (low, high) pair a dimension by which the dilated input is padded; negative pads cut
        it. Where all strides are 1, also any string that `jax.lax.conv_general_dilated` takes.
      rhs_dilation: one int a spatial dimension, in pixels; None (default) is 1.
      dimension_numbers: None (default: channels last), three strings, or a `jax.lax.ConvDimensionNumbers`.
      transpose_kernel: False (default) slides `rhs` as it stands. True takes it for the kernel of the strided
        convolution whose gradient this is: flipped, input and output channels swapped.
      precision: `'default'`, `'high'`, `'highest'`, a `jax.lax.Precision`, or a pair of them. A
        `jax.lax.DotAlgorithmPreset` or its name, which lax's convolutions take for the default, is the least of the
        three that keeps as many bits of the operands. A `jax.lax.DotAlgorithm` is refused. None (default) is
        `jax.default_matmul_precision`'s.
      preferred_element_type: the dtype of sums and result. Default: that of `lhs`.
      use_consistent_padding: True takes pairs, like strings, for the pads of the strided convolution, as PyTorch does;
        each dimension may have a string of its own. Default False.
      feature_group_count: groups of channels, which `jax.lax.conv_transpose` lacks; divides both. Default 1.
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
    both, options = prepare(
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
    return both.convolve(**options)


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
) -> tuple[Operands, dict[str, Any]]:
    """All checks; what is left to do is `convolve`. `output_shape` asks for spatial sizes other than the default."""
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
    swapped = flag("transpose_kernel", transpose_kernel)
    both = operands(lhs, rhs, dimension_numbers, feature_group_count, swapped, names)
    steps_ = steps("strides", strides, both.rank)
    dilations = (1,) * both.rank if rhs_dilation is None else steps(names.rhs_dilation, rhs_dilation, both.rank)
    extents = tuple(map(extent, both.kernel, dilations))
    if output_shape is None:
        pads = _pads(padding, extents, steps_, flag("use_consistent_padding", use_consistent_padding))
        geometry = geometry_of(both, steps_, dilations, pads)
    else:
        geometry = _sized(both, steps_, dilations, padding, output_shape)
    return both, dict(
        geometry=geometry,
        dtype=lax_result_type(both, preferred_element_type),
        precision=precision_now(precision),
        method=method_for(method),
    )


def _pads(
    padding: Any, extents: tuple[int, ...], strides: tuple[int, ...], consistent: bool
) -> tuple[tuple[int, int], ...]:
    """By how much the dilated input is padded in each dimension."""
    rank = len(strides)
    padding = plain(padding)
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
    both: Operands, strides: tuple[int, ...], dilations: tuple[int, ...], padding: Any, output_shape: Any
) -> Geometry:
    """With the output's sizes asked for: any that the strided convolution maps to the input's."""
    sizes = output_shapes.spatial_sizes(output_shape, both.rank)
    pads = padding
    if not _is_mode(padding):
        pairs = int_pairs(padding, both.rank, least=None)
        extents = map(extent, both.kernel, dilations)
        pads = tuple((e - 1 - low, e - 1 - high) for e, (low, high) in zip(extents, pairs, strict=True))
    try:
        return build(both.input, both.kernel, strides, dilations, pads, sizes)
    except (Unreachable, Undecidable) as error:
        raise worded(error, "output_shape", output_shape, padding, both.input, strides, sizes) from None
