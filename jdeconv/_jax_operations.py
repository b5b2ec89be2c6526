"""`lax` and `jnp`: JAX's own operations, whatever stands in `jax.lax` and `jax.numpy` while a program is traced.

Libraries put functions of their own there for a while: quantisers, LoRA providers, profilers, `jdeconv.patch`. Our
computations are traced when XLA compiles them and are kept by shape, so one traced through such a function would
answer every later caller, too. Hence all modules of this package take `lax` and `jnp` from here.

Some libraries (qwix) exchange the code of the function itself. What multiplies and sums is therefore a copy.
"""

import functools
import importlib
import types
from typing import TYPE_CHECKING, Any

import jax


def _own(public: types.ModuleType, *sources: str) -> Any:
    """What `public` holds; where something foreign stands in it already, what the sources define by that name."""
    modules = [vars(module) for name in sources if (module := _imported(name))]
    defined = {name: value for module in reversed(modules) for name, value in module.items()}
    genuine = {id(value) for module in modules for value in module.values()}
    own = {
        name: defined[name] if name in defined and id(value) not in genuine else value
        for name, value in vars(public).items()
        if not name.startswith("_")
    }
    return types.SimpleNamespace(**own)


def _imported(name: str) -> types.ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:  # a release may move it: then what `public` holds is all there is
        return None


def copied(function: Any, **exchanged: Any) -> Any:
    """A copy of a function of Python, in whose module these names stand for something else; no other callable."""
    if not isinstance(function, types.FunctionType):
        return function
    names = {**function.__globals__, **exchanged} if exchanged else function.__globals__
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


if TYPE_CHECKING:
    import jax.numpy as jnp
    from jax import lax

    __all__ = ["copied", "jnp", "lax"]
else:
    _LAX = tuple(f"jax._src.lax.{name}" for name in ("lax", "slicing", "convolution", "parallel", "control_flow"))
    _NUMPY = tuple(
        f"jax._src.numpy.{name}"
        for name in ("lax_numpy", "array_constructors", "array_creation", "einsum", "indexing", "reductions", "ufuncs")
    )
    lax, jnp = _own(jax.lax, *_LAX, "jax._src.pjit"), _own(jax.numpy, *_NUMPY)
    lax.conv_general_dilated, lax.dot_general = map(copied, (lax.conv_general_dilated, lax.dot_general))
    jnp.einsum = functools.partial(copied(jnp.einsum), _dot_general=lax.dot_general)
