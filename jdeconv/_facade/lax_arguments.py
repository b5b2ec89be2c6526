"""lax's convolution of a dilated input, made the operator's: what each of lax's functions comes down to.

lax slides the kernel as it stands over the dilated and padded input; the operator adds each tap to the outputs. So
lax's last tap is the operator's first, and `low` is what lax's low pad leaves of the kernel's extent.
"""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from .._arguments import integers, items, shown
from .._errors import refusal
from .._geometry import Geometry, Undecidable, at_least_zero, holds
from .._jax_operations import jnp, lax
from .._operator.primitive import solve, unfolded
from .arrays import described, dtype_of, kind_of
from .explicit_mesh import Dimension, channels, on_mesh
from .unreachable import undecided


@dataclasses.dataclass(frozen=True)
class Names:
    """How the caller spells what is refused."""

    lhs: str = "lhs"
    rhs: str = "rhs"
    rhs_dilation: str = "rhs_dilation"
    feature_group_count: str = "feature_group_count"
    channels: str = "dimension_numbers and transpose_kernel say which of its dimensions is which."
    """The mend where the two have other channels."""
    batch_added: bool = False

    def given(self, lhs: Any) -> str:
        """lhs as the caller has it."""
        return described(jax.ShapeDtypeStruct(lhs.shape[1:], lhs.dtype) if self.batch_added else lhs)


LAX = Names()


@dataclasses.dataclass(frozen=True)
class Operands:
    """Input and kernel with their layouts, checked against each other; made by `operands`."""

    lhs: jax.Array
    rhs: jax.Array
    numbers: lax.ConvDimensionNumbers
    groups: int
    swapped: bool
    """Whether rhs is the kernel of the strided convolution, so that its output channels (O) are the input's here."""
    names: Names

    @property
    def rank(self) -> int:
        """The number of spatial dimensions."""
        return self.lhs.ndim - 2

    @property
    def input(self) -> tuple[Any, ...]:
        """The input's spatial sizes."""
        return tuple(self.lhs.shape[axis] for axis in self.numbers.lhs_spec[2:])

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's spatial sizes."""
        return tuple(self.rhs.shape[axis] for axis in self.numbers.rhs_spec[2:])

    @property
    def kernel_axes(self) -> tuple[int, int]:
        """Where rhs has the output's channels and the input's."""
        out, into = self.numbers.rhs_spec[:2]
        return (into, out) if self.swapped else (out, into)

    @property
    def channels(self) -> tuple[Any, Any]:
        """The input's and the output's, of all groups."""
        out = self.rhs.shape[self.kernel_axes[0]]
        return self.lhs.shape[self.numbers.lhs_spec[1]], out * self.groups if self.swapped else out

    def convolve(self, *, geometry: Geometry, dtype: Any, precision: Any, method: str) -> jax.Array:
        """The transposed convolution, in the layout of `numbers.out_spec`."""
        (batch_axis, channel_axis, *spatial), (into, out), groups = self.numbers.lhs_spec, self.channels, self.groups
        batch = self.lhs.shape[batch_axis]
        # Which of (batch, *spatial, channels) each of the result's dimensions is.
        order = np.argsort([self.numbers.out_spec[axis] for axis in (0, *range(2, self.rank + 2), 1)]).tolist()

        sizes = (batch, *geometry.output)
        if not self.rank:  # a matrix product: one position, one tap
            geometry = Geometry((1,), (1,), (1,), (1,), (1,), (0,))

        def compute(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            x = lhs.transpose(batch_axis, *spatial, channel_axis)
            x = unfolded(x.reshape(batch, *geometry.input, groups, into // groups), self.lhs, self.rhs)
            w = self._operators_kernel(rhs)
            w = w.reshape(*geometry.kernel, *w.shape[-3:])
            y = solve("output", geometry, input=x, kernel=w, dtype=dtype, precision=precision, method=method)
            return y.reshape(*sizes, out).transpose(order)

        dimensions = [
            *(Dimension(size, ((0, axis),)) for size, axis in zip(sizes, (batch_axis, *spatial), strict=True)),
            channels(out, groups, channel_axis, self.kernel_axes[0], self.numbers.rhs_spec[0]),
        ]
        return on_mesh(compute, self.lhs, self.rhs, [dimensions[axis] for axis in order])

    def _operators_kernel(self, rhs: jax.Array) -> jax.Array:
        """As `(*k, o, g, i)`, the first tap first."""
        w = rhs.transpose(*self.numbers.rhs_spec[2:], *self.kernel_axes)
        if self.swapped:
            return w.reshape(*w.shape[:-1], self.groups, w.shape[-1] // self.groups)
        w = w.reshape(*self.kernel, self.groups, w.shape[-2] // self.groups, w.shape[-1])
        return lax.rev(w.swapaxes(-2, -3), range(self.rank))


def operands(
    lhs: Any,
    rhs: Any,
    dimension_numbers: Any,
    feature_group_count: Any,
    swapped: bool = False,
    names: Names = LAX,
) -> Operands:
    """Raises ValueError or TypeError where they don't fit, in the caller's names for them."""
    lhs, rhs = _lax_array(names.lhs, lhs, names.given), _lax_array(names.rhs, rhs)
    if rhs.ndim != lhs.ndim or lhs.ndim < 2:
        raise refusal(
            ValueError,
            names.rhs,
            described(rhs),
            f"{rhs.ndim} dimensions",
            f"expected as many as {names.lhs}={names.given(lhs)} has, and at least 2",
            "Both have their spatial dimensions and two more.",
        )
    numbers = _numbers(dimension_numbers, lhs.shape, rhs.shape)
    (groups,) = integers(names.feature_group_count, feature_group_count, lengths=(1,), least=1)
    found = Operands(lhs, rhs, numbers, groups, swapped, names)
    if not all(isinstance(size, int) and size for size in found.kernel):
        raise refusal(
            ValueError,
            names.rhs,
            described(rhs),
            "a kernel size that is 0 or symbolic",
            "expected known sizes of at least 1",
            "Give every spatial dimension a tap; where sizes are symbolic, export a program for each.",
        )
    (into, out), kernel_inputs = found.channels, rhs.shape[found.kernel_axes[1]]
    if into != (kernel_inputs if swapped else kernel_inputs * groups):
        per_group = f" in each of {groups} groups" if groups > 1 and not swapped else ""
        raise refusal(
            ValueError,
            names.rhs,
            described(rhs),
            f"{kernel_inputs} input channels{per_group}",
            f"expected those of {names.lhs}={names.given(lhs)}, {into} in all",
            names.channels,
        )
    if groups > 1 and (into % groups or out % groups):
        raise refusal(
            ValueError,
            names.feature_group_count,
            groups,
            f"{into} input and {out} output channels",
            "expected a divisor of both",
            "Use 1, the default, for one group.",
        )
    return found


def geometry_of(
    operands: Operands,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[tuple[int, int]],
    padding: Any = None,
) -> Geometry:
    """lax's sizes: the dilated input is padded, or cut where pads are negative, and the kernel slides over that.

    `padding` is what the caller was given, if that is something else than `pads`.
    """
    outputs, lows = [], []
    sizes = zip(operands.input, operands.kernel, strides, dilations, pads, strict=True)
    for dim, (i, k, s, d, (low, high)) in enumerate(sizes):
        taken = (k - 1) * d
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
            raise undecided(error, operands.names.lhs, operands.names.given(operands.lhs)) from error
        lows.append(taken - low)
    return Geometry(operands.input, operands.kernel, tuple(outputs), tuple(strides), tuple(dilations), tuple(lows))


def steps(name: str, value: Any, rank: int) -> tuple[int, ...]:
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


def lax_result_type(operands: Operands, preferred: Any) -> np.dtype[Any]:
    """The dtype of the result: the operands', which is the same for both, or `preferred`, which loses nothing."""
    dtype, names = operands.lhs.dtype, operands.names
    if dtype != operands.rhs.dtype:
        raise refusal(
            TypeError,
            names.rhs,
            described(operands.rhs),
            f"dtype {operands.rhs.dtype}",
            f"expected {dtype}, as {names.lhs}={names.given(operands.lhs)} has",
            f"Cast one of the two, for example with {names.rhs}.astype({names.lhs}.dtype).",
        )
    if preferred is None:
        return np.dtype(dtype)
    wanted = dtype_of(preferred) or np.dtype(object)
    kind, wanted_kind = kind_of(dtype), kind_of(wanted)
    signed = kind is jnp.integer and not jnp.issubdtype(dtype, jnp.unsignedinteger)
    if (
        wanted not in LAX_DTYPES
        or not (kind is wanted_kind or (kind is jnp.integer and wanted_kind is jnp.floating))
        or (signed and jnp.issubdtype(wanted, jnp.unsignedinteger))
        or wanted.itemsize < dtype.itemsize
    ):
        raise refusal(
            TypeError,
            "preferred_element_type",
            shown(preferred),
            "not a type for these sums",
            f"expected a dtype of the same kind as {dtype} or floats for ints, and none narrower",
            "Leave it out for the dtype of the operands.",
        )
    return wanted


LAX_DTYPES = tuple(
    np.dtype(name)
    for name in (
        "float16", jnp.bfloat16, "float32", "float64", "complex64", "complex128",
        "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    )
)  # fmt: skip


def _lax_array(name: str, value: Any, described: Callable[[Any], str] = described) -> jax.Array:
    given = value if isinstance(value, jax.Array) or not hasattr(value, "__jax_array__") else value.__jax_array__()
    dtype = getattr(given, "dtype", None)
    masked = isinstance(given, np.ma.MaskedArray)
    # Like lax, it takes JAX's and NumPy's arrays, and what shows itself as one of NumPy's.
    if (
        isinstance(given, jax.ShapeDtypeStruct)
        or masked
        or not hasattr(given, "shape")
        or not isinstance(dtype, np.dtype)
    ):
        mend = f"Pass {name} as a JAX or NumPy array."
        raise refusal(TypeError, name, described(value), "not an array", "expected an array of numbers", mend)
    if dtype not in LAX_DTYPES:
        raise refusal(
            TypeError,
            name,
            described(value),
            f"dtype {dtype}",
            "expected floats of 16 bits or more, complex numbers or integers of 8 bits or more",
            "Cast it, or call jax.lax.conv_transpose.",
        )
    return jnp.asarray(given)


def _numbers(value: Any, lhs_shape: Sequence[Any], rhs_shape: Sequence[Any]) -> lax.ConvDimensionNumbers:
    try:
        numbers = lax.conv_dimension_numbers(lhs_shape, rhs_shape, value)
        specs = [tuple(map(operator.index, spec)) for spec in numbers]
        if any(sorted(spec) != list(range(len(lhs_shape))) for spec in specs):
            raise TypeError(f"each of its specs must have the dimensions 0 to {len(lhs_shape) - 1} once")
    except TypeError as error:
        raise refusal(
            TypeError,
            "dimension_numbers",
            value if isinstance(value, tuple) else shown(value),
            f"no layout of lhs and rhs ({error})",
            "expected None, three strings or a jax.lax.ConvDimensionNumbers",
            "Use N and C, I and O, and the same spatial letters in all three, as in ('NHWC', 'HWIO', 'NHWC').",
        ) from None
    return lax.ConvDimensionNumbers(*specs)
