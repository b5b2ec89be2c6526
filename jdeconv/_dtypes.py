"""Which dtypes operands may have, which two of them have in common, and to which 16-bit floats are widened for sums."""

import functools
import numbers
from typing import Any

import jax
import numpy as np

from ._jax_operations import jnp

# Of TensorFlow, Keras and ONNX.
DTYPES = tuple(
    np.dtype(name)
    for name in ("float16", jnp.bfloat16, "float32", "float64", "complex64", "complex128", "int8", "int16", "int32")
)
# Of lax.
ALL_DTYPES = (*DTYPES, *(np.dtype(name) for name in ("int64", "uint8", "uint16", "uint32", "uint64")))


def at_least_float32(dtype: Any) -> Any:
    """The type to sum `dtype` in: bfloat16 and float16 are widened. `Engine` (`_engine/engine.py`) sums in it."""
    # NumPy promotes even under jax.numpy_dtype_promotion("strict").
    return np.promote_types(dtype, "float32") if jnp.issubdtype(dtype, np.floating) else dtype


def common_dtype(*dtypes: Any) -> np.dtype[Any]:
    """The narrowest dtype that loses nothing of these, also where JAX promotes strictly."""
    with jax.numpy_dtype_promotion("standard"):
        return np.dtype(functools.reduce(jnp.promote_types, dtypes))


def kind_of(dtype: Any) -> Any:
    """The dtype's kind: integer, floating or complexfloating; None for any other."""
    kinds = (jnp.integer, jnp.floating, jnp.complexfloating)
    return next((kind for kind in kinds if jnp.issubdtype(dtype, kind)), None)


def dtype_of(value: Any) -> np.dtype[Any] | None:
    """The dtype that `value` names, narrowed to 32 bits unless JAX has x64 on; None if it names none."""
    if isinstance(value, numbers.Number):  # JAX's cache takes 2.0 for np.float32(2.0), which has a dtype
        return None
    try:
        return np.dtype(jax.dtypes.canonicalize_dtype(value))
    except (TypeError, ValueError, Warning):
        return None
