"""The arguments of `jax.lax`'s convolutions checked, and made a `Call`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from .._arguments import flag, int_pairs, items
from .._errors import refusal
from .._geometry import Geometry, Undecidable, Unreachable, build, extent, low_of_same
from .._jax_operations import lax
from .._plan.choose import AUTO
from .._size_errors import unreachable
from .apply import Call, Layout, method_for
from .arrays import Names, precision_now, python_values, result_type
from .lax_arguments import LAX, arrays_and_layout, geometry_of, per_dimension, strided_geometry_of
from .output_shape import spatial_only

MODES = ("SAME", "VALID")
# lax's layouts where dimension_numbers is None, by the number of dimensions.
LAYOUTS = {
    2: ("NC", "IO", "NC"),
    3: ("NHC", "HIO", "NHC"),
    4: ("NHWC", "HWIO", "NHWC"),
    5: ("NHWDC", "HWDIO", "NHWDC"),
}


def call_or_none(prepare: Callable[..., Call | None], arguments: Mapping[str, Any]) -> Call | None:
    """The call that `prepare` makes of lax's arguments; None where lax itself has to compute or refuse it.

    lax has to where the result would not have lax's type: weak types, and layouts of input and output that differ on
    a mesh with explicit axes, which go by their position. It warns of a dtype of 64 bits that it narrows.
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
    moved = explicit and call.layout.input != call.layout.output
    return None if weak or moved or _narrowed(arguments.get("preferred_element_type"), call.dtype) else call


def _narrowed(preferred: Any, dtype: np.dtype[Any]) -> bool:
    """Whether `dtype` is narrower than what `preferred` names; Python's own types name no width."""
    of_python = any(preferred is kind for kind in (None, int, float, complex))
    return not of_python and np.dtype(preferred) != dtype


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
        pads = int_pairs(python_values(padding), rank, least=None)
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
    """All checks; what is left is `convolve`. `output_shape` asks for spatial sizes other than the default."""
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
