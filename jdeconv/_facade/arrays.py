"""The arrays and options that every facade takes: what kinds of them there are, and what is refused."""

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from .._arguments import integers, known, shown
from .._errors import either, refusal
from .._formulations import METHODS
from .._jax_operations import jnp, lax
from .._plan.choose import AUTO

DTYPES = tuple(
    np.dtype(name)
    for name in ("float16", jnp.bfloat16, "float32", "float64", "complex64", "complex128", "int8", "int16", "int32")
)


def described(value: Any) -> str:
    """An array as its dtype and shape."""
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") and hasattr(value, "shape") else shown(value)


def array(
    name: str, value: Any, rank: int | None, unbatched: bool = False, dtypes: Sequence[np.dtype[Any]] = DTYPES
) -> jax.Array:
    """`value` as an array of `rank` (None: 1 to 3) spatial dimensions and two more, or one more where `unbatched`."""
    array = _converted(name, value, dtypes)
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


def read(value: Any) -> Any:
    """An array of any library as JAX's or NumPy's, anything else as it is; without a gradient to its own library.

    Raises an error of some kind for what has no values in memory, or not those of an array.
    """
    if isinstance(value, jax.Array):
        return value
    if hasattr(value, "__jax_array__"):
        return value.__jax_array__()
    if hasattr(value, "resolve_conj"):  # a PyTorch tensor, whose .numpy() knows neither bfloat16 nor what is lazy
        value = value.detach().cpu().resolve_conj().resolve_neg()
        narrow = str(value.dtype) == "torch.bfloat16"
        return value.float().numpy().astype(jnp.bfloat16) if narrow else value.numpy()
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("a mask, which would be lost")
    if not hasattr(value, "__array__"):
        return value
    array = np.asarray(value)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def plain(value: Any) -> Any:
    """Known arrays, also in lists and tuples, as tuples and numbers of Python, for code that asks for these types."""
    value = known(value)
    if isinstance(value, (list, tuple, np.ndarray)):
        return [*map(plain, value)] if isinstance(value, list) else tuple(map(plain, value))
    return value.item() if isinstance(value, np.number) else value


UNREADABLE = (TypeError, ValueError, OverflowError, RuntimeError, Warning)  # of which a test suite makes errors


def _converted(name: str, value: Any, dtypes: Sequence[np.dtype[Any]] = DTYPES) -> jax.Array:
    """`value` as an array of one of `dtypes`."""
    try:
        if value is None or isinstance(value, (str, bytes)):
            raise TypeError
        given = read(value)
        array = jnp.asarray(given)
        if not hasattr(given, "dtype") and array.dtype == "int64":
            array = array.astype("int32")  # Python ints are int32 to TensorFlow, and to JAX without x64
    except UNREADABLE:
        raise refusal(
            TypeError,
            name,
            described(value),
            "missing" if value is None else "not an array",
            "expected an array of numbers",
            f"Pass {name} as a JAX or NumPy array.",
        ) from None
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


def check_kernel(name: str, kernel: jax.Array, sizes: Sequence[Any], empty: bool = True) -> None:
    """Refuses spatial sizes that are not ints, and those of zero unless `empty`."""
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


def check_inputs(
    names: dict[str, str], value: jax.Array, channels: Any, filter: jax.Array, filter_inputs: Any, mend: str
) -> None:
    """Refuses a filter for another number of input channels."""
    if filter_inputs != channels:
        raise refusal(
            ValueError,
            names["filter"],
            described(filter),
            f"{filter_inputs} input channels",
            f"expected {channels}, as {names['value']}={described(value)} has",
            mend,
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
    """The bias, if there is one: as many numbers as the result has channels, of the dtype of `x`, spelt `source`."""
    if value is None:
        return None
    bias = _converted(name, value, dtypes)
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


def result_type(names: dict[str, str], value: jax.Array, filter: jax.Array, preferred: Any) -> np.dtype[Any]:
    """The dtype of the result, both operands having one, and `preferred` being of its kind."""
    if value.dtype != filter.dtype:
        raise refusal(
            TypeError,
            names["filter"],
            described(filter),
            f"dtype {filter.dtype}",
            f"expected {value.dtype}, as {names['value']}={described(value)} has",
            f"Cast one of the two, for example with {names['filter']}.astype({names['value']}.dtype).",
        )
    if preferred is None:
        if value.dtype.name in ("int8", "int16"):
            raise refusal(
                TypeError,
                names["value"],
                described(value),
                f"sums of products overflow {value.dtype}",
                "expected preferred_element_type beside it",
                "Pass preferred_element_type='int32'.",
            )
        return np.dtype(value.dtype)
    dtype = dtype_of(preferred)
    same_kind = dtype in (*DTYPES, value.dtype) and kind_of(dtype) is kind_of(value.dtype)
    if dtype is None or not same_kind or (dtype.kind == "i" and dtype.itemsize < value.dtype.itemsize):
        raise refusal(
            TypeError,
            "preferred_element_type",
            shown(preferred),
            "not a type for these sums",
            f"expected a dtype of the same kind as {value.dtype}, and no narrower integer",
            "Leave it out for the dtype of the operands.",
        )
    return dtype


def kind_of(dtype: Any) -> Any:
    """Which of NumPy's kinds of numbers a dtype is of; None: of none."""
    kinds = (jnp.integer, jnp.floating, jnp.complexfloating)
    return next((kind for kind in kinds if jnp.issubdtype(dtype, kind)), None)


def dtype_of(value: Any) -> np.dtype[Any] | None:
    """The dtype that `value` names, as wide as JAX has it now; None if it names none."""
    if isinstance(value, numbers.Number):  # JAX's cache takes 2.0 for np.float32(2.0), which has a dtype
        return None
    try:
        return np.dtype(jax.dtypes.canonicalize_dtype(value))
    except (TypeError, ValueError, Warning):
        return None


def precision_now(precision: Any) -> Any:
    """A hashable precision; None is what `jax.default_matmul_precision` says now, not when the program is compiled."""
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
        raise TypeError  # the enumeration takes its members' numbers too, and so True for 'high'
    return lax.Precision(value)


def _precision_of(preset: str) -> lax.Precision:
    if preset.startswith(("F32", "F64")) or "_X" in preset:  # X3: in three passes
        return lax.Precision.HIGHEST
    return lax.Precision.HIGH if preset.startswith(("F16", "TF32")) else lax.Precision.DEFAULT


# Presets are of products: lax's convolutions take them and are computed at the default precision. Here they are the
# least precision that keeps as many bits of the operands on every platform, in convolutions and products alike.
PRESETS: dict[Any, lax.Precision] = {
    key: _precision_of(preset.name) for preset in lax.DotAlgorithmPreset for key in (preset, preset.name)
}


def method_for(method: Any) -> str:
    known = (AUTO, *METHODS)
    if not isinstance(method, str) or method not in known:
        raise refusal(
            ValueError,
            "method",
            shown(method),
            "unknown",
            f"expected {either(map(repr, known))}",
            "Use 'auto', which picks the fastest that is known.",
        )
    return method
