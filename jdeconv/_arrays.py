"""Other libraries' tensors and variables as arrays."""

from typing import Any

import jax
import numpy as np

from ._errors import refusal
from ._jax_operations import jnp
from ._operands import described


def array(argument: str, value: Any) -> Any:
    """A JAX array, or else a NumPy one."""
    if isinstance(value, jax.Array):
        return value
    if hasattr(value, "__jax_array__"):
        return value.__jax_array__()
    given = value
    if hasattr(value, "detach"):  # a PyTorch tensor
        value = value.detach().cpu()
        bfloat16 = str(value.dtype) == "torch.bfloat16"  # which its .numpy() doesn't know
        value = value.float().numpy().astype(jnp.bfloat16) if bfloat16 else value.numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # lists of unequal lengths
        array = np.asarray(None)
    if array.dtype == object or array.dtype.kind in "SU":
        raise refusal(
            TypeError,
            argument,
            described(given),
            "not an array",
            "expected an array of numbers",
            "Pass an array of NumPy, JAX or PyTorch.",
        )
    return array
