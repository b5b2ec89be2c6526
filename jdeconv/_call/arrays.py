"""The arrays, types of sums and precisions that all facades take, and what is refused."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from .._arguments import concrete, described, integers, shown
from .._dtypes import ALL_DTYPES, DTYPES, dtype_of, kind_of
from .._errors import either, refusal
from .._jax_operations import jnp, lax


@dataclasses.dataclass(frozen=True)
class Names:
    """How a facade spells the arguments that shared checks refuse."""

    input: str
    kernel: str
    channels: str
    """The mend where input and kernel differ in input channels."""
    dilations: str = "rhs_dilation"
    groups: str = "feature_group_count"
    batch_added: bool = False
    """Whether the facade added the input's batch, which messages then leave out."""

    def shown_input(self, x: Any) -> str:
        """The input as the caller gave it."""
        return described(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) if self.batch_added else x)


def ranked_array(
    name: str, value: Any, rank: int | None, unbatched: bool = False, dtypes: Sequence[np.dtype[Any]] = DTYPES
) -> jax.Array:
    """`value` as an array of `rank` (None: 1 to 3) spatial dimensions and two more, or one more where `unbatched`."""
    array = _jax_array(name, value, dtypes)
    ranks = range(3, 6) if rank is None else range(rank + 2 - unbatched, rank + 3)
    if array.ndim not in ranks:
        raise refusal(
            ValueError,
            name,
            described(array),
            f"{array.ndim} dimensions",
            f"expected {either(ranks)}",
            "Reshape it: there are two dimensions beside the spatial ones, in the order that the docstring gives.",
        )
    return array


def any_array(name: str, value: Any) -> Any:
    """`value`, an array of any library and dtype, or numbers in lists, as a JAX array if it is one, else as NumPy's."""

    def kept(given: Any) -> Any:
        array = given if isinstance(given, jax.Array) else np.asarray(given)
        if array.dtype == object or array.dtype.kind in "SU":
            raise TypeError
        return array

    return _read(name, value, kept, "Pass an array of NumPy, JAX or PyTorch.")[1]


def _jax_array(name: str, value: Any, dtypes: Sequence[np.dtype[Any]] = DTYPES) -> jax.Array:
    """`value`, an array of any library or numbers in lists, as a JAX array of one of `dtypes`."""
    given, array = _read(name, value, jnp.asarray, f"Pass {name} as a JAX or NumPy array.")
    if not hasattr(given, "dtype") and array.dtype == "int64":
        array = array.astype("int32")  # Python ints are int32 to TensorFlow, and to JAX without x64
    # NumPy's own dtype, where there is one: JAX narrows int64 to int32, which users of other libraries don't expect.
    dtype = given.dtype if isinstance(given, np.ndarray) else array.dtype
    if jnp.issubdtype(dtype, jax.dtypes.extended) or dtype not in dtypes:
        better = "int32" if jnp.issubdtype(dtype, jnp.integer) else "float32"
        raise refusal(
            TypeError,
            name,
            described(value),
            f"dtype {dtype}",
            f"expected {either(dtypes)}",
            f"Cast it, for example with {name}.astype({better!r}).",
        )
    return array


UNREADABLE = (TypeError, ValueError, OverflowError, RuntimeError, Warning)  # test suites make errors of warnings


def _read(name: str, value: Any, convert: Callable[[Any], Any], mend: str) -> tuple[Any, Any]:
    """`value` without its library's wrapping, and the array that `convert` makes of it."""
    try:
        if value is None or isinstance(value, (str, bytes)):
            raise TypeError
        given = _unwrapped(value)
        return given, convert(given)
    except UNREADABLE:
        problem = "missing" if value is None else "not an array"
        raise refusal(TypeError, name, described(value), problem, "expected an array of numbers", mend) from None


def _unwrapped(value: Any) -> Any:
    """An array of any library as JAX's or NumPy's, without a gradient to its own library; anything else as it is.

    Raises some error for a value without numbers in memory, or with more to it than an array's numbers.
    """
    if isinstance(value, jax.Array):
        return value
    if hasattr(value, "__jax_array__"):
        return value.__jax_array__()
    if hasattr(value, "resolve_conj"):  # a PyTorch tensor, whose .numpy() refuses bfloat16 and lazy conjugates
        value = value.detach().cpu().resolve_conj().resolve_neg()
        narrow = str(value.dtype) == "torch.bfloat16"
        return value.float().numpy().astype(jnp.bfloat16) if narrow else value.numpy()
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("a mask, which would be lost")
    if not hasattr(value, "__array__"):
        return value
    array = np.asarray(value)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def python_values(value: Any) -> Any:
    """Concrete arrays, also in lists and tuples, as Python's tuples and numbers, for code that asks for these types."""
    value = concrete(value)
    if isinstance(value, (list, tuple, np.ndarray)):
        return [*map(python_values, value)] if isinstance(value, list) else tuple(map(python_values, value))
    return value.item() if isinstance(value, np.number) else value


def check_kernel(name: str, kernel: jax.Array, sizes: Sequence[Any], empty: bool = True) -> None:
    """Refuses symbolic spatial sizes, and unless `empty` also sizes of 0."""
    if not all(isinstance(size, int) for size in sizes):
        raise refusal(
            ValueError,
            name,
            described(kernel),
            "a symbolic kernel size",
            "expected ints, on which the padding depends",
            "Export one program for each kernel size.",
        )
    if not empty and 0 in sizes:
        raise refusal(
            ValueError,
            name,
            described(kernel),
            "an empty kernel",
            "expected spatial sizes of at least 1",
            "Leave the call out: no tap reaches any output.",
        )


def check_channels(names: Names, x: jax.Array, channels: Any, w: jax.Array, kernel_inputs: Any) -> None:
    """Refuses a kernel for another number of input channels."""
    if kernel_inputs != channels:
        raise refusal(
            ValueError,
            names.kernel,
            described(w),
            f"{kernel_inputs} input channels",
            f"expected {channels}, as {names.input}={names.shown_input(x)} has",
            names.channels,
        )


def groups_for(name: str, value: Any, channels: Any) -> int:
    """The number of groups, which divides the input's channels."""
    (groups,) = integers(name, value, lengths=(1,), least=1)
    if groups > 1 and channels % groups != 0:
        raise refusal(
            ValueError,
            name,
            shown(value),
            f"it does not divide the {channels} input channels",
            "expected a divisor of them",
            "Use 1, or one group for each of the parts that the channels fall into.",
        )
    return groups


def bias_for(
    name: str, value: Any, channels: Any, source: str, x: jax.Array, dtypes: Sequence[np.dtype[Any]] = DTYPES
) -> jax.Array | None:
    """The bias, if there is one: a number for each output channel, of the dtype of `x`, which is called `source`."""
    if value is None:
        return None
    bias = _jax_array(name, value, dtypes)
    if bias.shape != (channels,):
        raise refusal(
            ValueError,
            name,
            described(bias),
            f"shape {shown(bias.shape)}",
            f"expected ({channels},), one for each output channel",
            "Give one number a channel, in one dimension, or None for no bias.",
        )
    if bias.dtype != x.dtype:
        raise refusal(
            TypeError,
            name,
            described(bias),
            f"dtype {bias.dtype}",
            f"expected {x.dtype}, as {source}={described(x)} has",
            f"Cast it, for example with {name}.astype({source}.dtype).",
        )
    return bias


def result_type(names: Names, x: jax.Array, w: jax.Array, preferred: Any, *, like_lax: bool = False) -> np.dtype[Any]:
    """The dtype of the result: `preferred`, or else the dtype of both operands.

    `preferred` is of the operands' kind. TensorFlow's integers may not narrow, and int8 and int16 need a `preferred`.
    With `like_lax` nothing may narrow, and integers may become floats.
    """
    dtype = np.dtype(x.dtype)
    if dtype != w.dtype:
        raise refusal(
            TypeError,
            names.kernel,
            described(w),
            f"dtype {w.dtype}",
            f"expected {dtype}, as {names.input}={names.shown_input(x)} has",
            f"Cast one of the two, for example with {names.kernel}.astype({names.input}.dtype).",
        )
    if preferred is None:
        if not like_lax and dtype.name in ("int8", "int16"):
            raise refusal(
                TypeError,
                names.input,
                described(x),
                f"sums of products overflow {dtype}",
                "expected preferred_element_type beside it",
                "Pass preferred_element_type='int32'.",
            )
        return dtype
    wanted = dtype_of(preferred)
    if wanted is None or not (_lax_sums if like_lax else _tensorflow_sums)(dtype, wanted):
        also = " or floats for ints, and none narrower" if like_lax else ", and no narrower integer"
        raise refusal(
            TypeError,
            "preferred_element_type",
            shown(preferred),
            "not a type for these sums",
            f"expected a dtype of the same kind as {dtype}{also}",
            "Leave it out for the dtype of the operands.",
        )
    return wanted


def _tensorflow_sums(dtype: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Whether TensorFlow's facade sums operands of `dtype` in `wanted`."""
    narrows = wanted.kind == "i" and wanted.itemsize < dtype.itemsize
    return wanted in (*DTYPES, dtype) and kind_of(wanted) is kind_of(dtype) and not narrows


def _lax_sums(dtype: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Whether lax sums operands of `dtype` in `wanted`."""
    kind, wanted_kind = kind_of(dtype), kind_of(wanted)
    same_kind = kind is wanted_kind or (kind is jnp.integer and wanted_kind is jnp.floating)
    loses_sign = jnp.issubdtype(dtype, jnp.signedinteger) and jnp.issubdtype(wanted, jnp.unsignedinteger)
    return wanted in ALL_DTYPES and same_kind and not loses_sign and wanted.itemsize >= dtype.itemsize


def precision_now(precision: Any) -> Any:
    """A hashable precision. None is `jax.default_matmul_precision` at this call, not when the program is compiled."""
    if precision is None:
        now = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        return PRESETS.get(now, now)
    try:
        if not isinstance(precision, (list, tuple)):
            return PRESETS[precision] if precision in PRESETS else _precision(precision)
        first, second = precision
        return _precision(first), _precision(second)
    except (TypeError, ValueError):
        raise refusal(
            ValueError,
            "precision",
            shown(precision),
            "unknown",
            "expected None, 'default', 'high', 'highest', a jax.lax.Precision, or a pair of them",
            "Use None for the default.",
        ) from None


def _precision(value: Any) -> lax.Precision:
    if value is not None and not isinstance(value, (str, lax.Precision)):
        raise TypeError  # the enumeration also takes its members' numbers, and so True for 'high'
    return lax.Precision(value)


def _precision_of(preset: str) -> lax.Precision:
    if preset.startswith(("F32", "F64")) or "_X" in preset:  # X3: in three passes
        return lax.Precision.HIGHEST
    return lax.Precision.HIGH if preset.startswith(("F16", "TF32")) else lax.Precision.DEFAULT


# Presets are made for products; lax's convolutions accept them and compute at the default precision. Here a preset is
# the least precision that keeps as many bits of the operands on every platform, in convolutions and products alike.
PRESETS: dict[Any, lax.Precision] = {
    key: _precision_of(preset.name) for preset in lax.DotAlgorithmPreset for key in (preset, preset.name)
}
