"""Other libraries' tensors and variables as arrays."""

from typing import Any

import jax
import numpy as np

from .._errors import refusal
from .._facade.arrays import UNREADABLE, described, read


def array(argument: str, value: Any) -> Any:
    """A JAX array, or else a NumPy one."""
    try:
        array = read(value)
        array = array if isinstance(array, jax.Array) else np.asarray(array)
    except UNREADABLE:  # lists of unequal lengths, tensors that have no values
        array = np.asarray(None)
    if array.dtype == object or array.dtype.kind in "SU":
        raise refusal(
            TypeError,
            argument,
            described(value),
            "not an array",
            "expected an array of numbers",
            "Pass an array of NumPy, JAX or PyTorch.",
        )
    return array
