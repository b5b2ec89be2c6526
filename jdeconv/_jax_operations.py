"""`lax` and `jnp`: JAX's own operations, whatever a library has put into `jax.lax` and `jax.numpy` meanwhile.

Quantisers, LoRA providers, profilers and `jdeconv.patch` put their own functions there for a while. Our computations
are traced when XLA compiles them, and cached by shape. One that was traced through such a function would also answer
every later caller. So all modules of this package take `lax` and `jnp` from here.

Some libraries (qwix) exchange the code of the function itself, so what multiplies and sums is a copy.
"""

import functools
import importlib
import types
from typing import TYPE_CHECKING, Any

import jax


def _own(public: types.ModuleType, *sources: str) -> Any:
    """What `public` holds; in place of something foreign, what the source modules define under that name."""
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
    except ImportError:  # a release may move it; then what `public` holds has to do
        return None


def copied(function: Any, **exchanged: Any) -> Any:
    """A copy of a Python function, for which these global names are exchanged; any other callable as it is."""
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
