"""lax's arguments checked, and its convolutions turned into a `Geometry`.

Of a dilated input: lax slides the kernel over it; the operator adds each tap to the outputs. So lax's last tap is the
operator's first, and `low` is the kernel's extent less 1 and less lax's low pad.

Of an input that is not dilated: lax's input is the operator's output, lax's output the operator's input, and `low` is
lax's low pad.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from .._arguments import described, integers, items, shown
from .._dtypes import ALL_DTYPES
from .._errors import refusal
from .._geometry import Geometry, Undecidable, at_least_zero, extent, holds
from .._jax_operations import jnp, lax
from .._size_errors import undecidable
from .apply import Layout
from .arrays import Names

LAX = Names("lhs", "rhs", "dimension_numbers and transpose_kernel say which of its dimensions is which.")


def arrays_and_layout(
    lhs: Any,
    rhs: Any,
    dimension_numbers: Any,
    feature_group_count: Any,
    transpose_kernel: bool = False,
    names: Names = LAX,
    *,
    dilated: bool = True,
) -> tuple[jax.Array, jax.Array, Layout]:
    """Input and kernel, checked against each other. Raises ValueError or TypeError, in the caller's `names`.

    `dilated`: whether the layout is for `geometry_of`, else for `strided_geometry_of`.
    """
    x, w = _lax_array(names.input, lhs, names.shown_input), _lax_array(names.kernel, rhs)
    if w.ndim != x.ndim or x.ndim < 2:
        raise refusal(
            ValueError,
            names.kernel,
            described(w),
            f"{w.ndim} dimensions",
            f"expected as many as {names.input}={names.shown_input(x)} has, and at least 2",
            "Both have their spatial dimensions and two more.",
        )
    (n, c, *images), (o, i, *kernels), (out_n, out_c, *results) = _dimension_numbers(dimension_numbers, x, w)
    # With transpose_kernel lax's O and I are those of the strided convolution: its outputs are the input here.
    slides = dilated and not transpose_kernel
    (groups,) = integers(names.groups, feature_group_count, lengths=(1,), least=1)
    channels = (o, i) if slides else (i, o)
    layout = Layout((n, *images, c), (*kernels, *channels), (out_n, *results, out_c), groups, slides)
    if not all(isinstance(size, int) and size for size in layout.kernel_sizes(w)):
        raise refusal(
            ValueError,
            names.kernel,
            described(w),
            "a kernel size that is 0 or symbolic",
            "expected known sizes of at least 1",
            "Give every spatial dimension a tap; where sizes are symbolic, export a program for each.",
        )
    inputs, outputs, kernel_inputs = x.shape[c], w.shape[o], w.shape[i]
    if transpose_kernel:
        outputs, kernel_inputs = kernel_inputs, outputs
    if inputs != (kernel_inputs if transpose_kernel else kernel_inputs * groups):
        per_group = f" in each of {groups} groups" if groups > 1 and not transpose_kernel else ""
        raise refusal(
            ValueError,
            names.kernel,
            described(w),
            f"{kernel_inputs} input channels{per_group}",
            f"expected those of {names.input}={names.shown_input(x)}, {inputs} in all",
            names.channels,
        )
    outputs = outputs * groups if transpose_kernel else outputs
    if groups > 1 and (inputs % groups or outputs % groups):
        raise refusal(
            ValueError,
            names.groups,
            groups,
            f"{inputs} input and {outputs} output channels",
            "expected a divisor of both",
            "Use 1, the default, for one group.",
        )
    return x, w, layout


def geometry_of(
    x: jax.Array,
    w: jax.Array,
    layout: Layout,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[tuple[int, int]],
    *,
    names: Names = LAX,
    padding: Any = None,
) -> Geometry:
    """lax's sizes: the input is dilated by `strides` and padded, or cropped where `pads` are negative, then slid over.

    `padding` is the caller's argument, where it differs from `pads`.
    """
    inputs, kernel = layout.input_sizes(x), layout.kernel_sizes(w)
    outputs, lows = [], []
    for dim, (i, k, s, d, (low, high)) in enumerate(zip(inputs, kernel, strides, dilations, pads, strict=True)):
        taken = extent(k, d) - 1
        try:
            padded = at_least_zero(dim, (i - 1) * s + 1) + low + high
            if not holds(dim, ">=", padded, 0):
                raise refusal(
                    ValueError,
                    "padding",
                    shown(tuple(pads) if padding is None else padding),
                    f"more is cut off than the dilated input's {padded - low - high} in dimension {dim}",
                    "expected pads that leave at least 0",
                    "Cut off less.",
                )
            outputs.append(at_least_zero(dim, padded - taken))
        except Undecidable as error:
            raise undecidable(error, names.input, names.shown_input(x)) from error
        lows.append(taken - low)
    return Geometry(inputs, kernel, tuple(outputs), tuple(strides), tuple(dilations), tuple(lows))


def strided_geometry_of(
    x: jax.Array,
    w: jax.Array,
    layout: Layout,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> Geometry:
    """lax's sizes where the kernel slides by `strides` over the input, which `pads` pad or crop.

    Raises ValueError where sizes don't fit or are symbolic and leave a pad open.
    """
    outputs, kernel, inputs = layout.input_sizes(x), layout.kernel_sizes(w), []
    for dim, (o, k, s, d, (low, high)) in enumerate(zip(outputs, kernel, strides, dilations, pads, strict=True)):
        if not holds(dim, ">=", o + low + high, 0):
            raise ValueError("more is cut off than there is")
        inputs.append((at_least_zero(dim, o + low + high - extent(k, d) + s)) // s)
    lows = tuple(low for low, _ in pads)
    geometry = Geometry(tuple(inputs), kernel, outputs, tuple(strides), tuple(dilations), lows)
    if not all(isinstance(pad, int) for pad in (*lows, *geometry.high)):
        raise ValueError("a pad is symbolic")
    return geometry


def per_dimension(name: str, value: Any, rank: int) -> tuple[int, ...]:
    """Strides or dilations, one for each spatial dimension."""
    if len(items(value) or ()) != rank or items(value) is None:
        raise refusal(
            ValueError,
            name,
            shown(value),
            "not one int a spatial dimension",
            f"expected a sequence of {rank}",
            "Give one for each, in the order of the kernel's dimensions.",
        )
    return integers(name, value, least=1)


def _lax_array(name: str, value: Any, shown_as: Callable[[Any], str] = described) -> jax.Array:
    given = value if isinstance(value, jax.Array) or not hasattr(value, "__jax_array__") else value.__jax_array__()
    dtype = getattr(given, "dtype", None)
    masked = isinstance(given, np.ma.MaskedArray)
    # Like lax it takes JAX's and NumPy's arrays, and objects with a shape and a dtype of NumPy's.
    if (
        isinstance(given, jax.ShapeDtypeStruct)
        or masked
        or not hasattr(given, "shape")
        or not isinstance(dtype, np.dtype)
    ):
        mend = f"Pass {name} as a JAX or NumPy array."
        raise refusal(TypeError, name, shown_as(value), "not an array", "expected an array of numbers", mend)
    if dtype not in ALL_DTYPES:
        raise refusal(
            TypeError,
            name,
            shown_as(value),
            f"dtype {dtype}",
            "expected floats of 16 bits or more, complex numbers or integers of 8 bits or more",
            "Cast it, or call jax.lax.conv_transpose.",
        )
    return jnp.asarray(given)


def _dimension_numbers(value: Any, x: jax.Array, w: jax.Array) -> list[tuple[int, ...]]:
    """The axes of input (N, C, spatial), kernel (O, I, spatial) and output (N, C, spatial)."""
    try:
        numbers = lax.conv_dimension_numbers(x.shape, w.shape, value)
        specs = [tuple(map(operator.index, spec)) for spec in numbers]
        if any(sorted(spec) != list(range(x.ndim)) for spec in specs):
            raise TypeError(f"each of its specs must have the dimensions 0 to {x.ndim - 1} once")
        return specs
    except TypeError as error:
        raise refusal(
            TypeError,
            "dimension_numbers",
            value if isinstance(value, tuple) else shown(value),
            f"no layout of lhs and rhs ({error})",
            "expected None, three strings or a jax.lax.ConvDimensionNumbers",
            "Use N and C, I and O, and the same spatial letters in all three, as in ('NHWC', 'HWIO', 'NHWC').",
        ) from None
