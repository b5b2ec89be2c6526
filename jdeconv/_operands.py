"""The arrays and options that every facade takes: what kinds of them there are, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import _plan
from ._arguments import shown
from ._errors import either, refusal
from ._formulations import METHODS

DTYPES = tuple(
    np.dtype(name)
    for name in ("float16", jnp.bfloat16, "float32", "float64", "complex64", "complex128", "int8", "int16", "int32")
)


def described(value: Any) -> str:
    """An array as its dtype and shape."""
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") and hasattr(value, "shape") else shown(value)


def array(name: str, value: Any, rank: int | None) -> jax.Array:
    """`value` as an array of `rank` (None: 1 to 3) spatial dimensions and two more."""
    try:
        if value is None:
            raise TypeError
        array = jnp.asarray(value)
        if not hasattr(value, "dtype") and array.dtype == "int64":
            array = array.astype("int32")  # Python ints are int32 to TensorFlow, and to JAX without x64
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise refusal(
            TypeError,
            name,
            shown(value),
            "missing" if value is None else "not an array",
            "expected an array of numbers",
            f"Pass {name} as a JAX or NumPy array.",
        ) from None
    ranks = range(3, 6) if rank is None else (rank + 2,)
    if array.ndim not in ranks:
        raise refusal(
            ValueError,
            name,
            described(array),
            f"{array.ndim} dimensions",
            f"expected {either(ranks)}",
            "Reshape it: there are two dimensions beside the spatial ones, in the order that the docstring gives.",
        )
    # NumPy's own dtype, where there is one: JAX narrows int64 to int32, which TensorFlow's users don't expect.
    dtype = value.dtype if isinstance(value, np.ndarray) else array.dtype
    if jnp.issubdtype(dtype, jax.dtypes.extended) or dtype not in DTYPES:
        better = "int32" if jnp.issubdtype(dtype, jnp.integer) else "float32"
        raise refusal(
            TypeError,
            name,
            described(value),
            f"dtype {dtype}",
            f"expected {either(DTYPES)}",
            f"Cast it, for example with {name}.astype({better!r}).",
        )
    return array


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
    try:
        dtype = np.dtype(jax.dtypes.canonicalize_dtype(preferred))
    except TypeError:
        dtype = None
    kinds = [jnp.integer, jnp.floating, jnp.complexfloating]
    same_kind = dtype in DTYPES and any(jnp.issubdtype(dtype, k) and jnp.issubdtype(value.dtype, k) for k in kinds)
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


def precision_now(precision: Any) -> Any:
    """A hashable precision; None is what `jax.default_matmul_precision` says now, not when the program is compiled."""
    if precision is None:
        return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    try:
        if not isinstance(precision, (list, tuple)):
            return lax.Precision(precision)
        first, second = precision
        return lax.Precision(first), lax.Precision(second)
    except (TypeError, ValueError):
        raise refusal(
            ValueError,
            "precision",
            shown(precision),
            "unknown",
            "expected None, 'default', 'high', 'highest', a jax.lax.Precision, or a pair of them",
            "Use None for the default.",
        ) from None


def method_for(method: Any) -> str:
    known = (_plan.AUTO, *METHODS)
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
