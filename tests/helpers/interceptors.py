"""What other libraries put in place of functions of `jax.lax` and `jax.numpy`: quantisers, LoRA, profilers, doubles."""

import contextlib
import functools
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import pytest
from jax import lax

# Of products and of their like: each result is linear in one operand, so that twice of it is a wrong number.
DOUBLED = {
    lax: (
        "dot_general", "dot", "batch_matmul", "conv_general_dilated", "conv", "conv_with_general_padding",
        "conv_transpose", "conv_general_dilated_patches", "mul", "transpose", "pad", "rev", "concatenate",
    ),
    jnp: ("einsum", "dot", "matmul", "tensordot", "vdot", "inner", "vecdot", "multiply", "moveaxis", "expand_dims"),
}  # fmt: skip
PALLAS = [pathlib.PurePath(jax.__file__).parent / "_src" / part for part in ("pallas", "state")]


class Intercepted(BaseException):
    """Raised by a call that should have gone to JAX's own function; no `except Exception` hides it."""


def functions(module):
    """The public functions by name, without classes (dtypes, named tuples) and constants."""
    found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    return {name: f for name, f in found.items() if callable(f) and not isinstance(f, type)}


@contextlib.contextmanager
def replaced(doubles):
    """`doubles[module][name]` in place of each, in every thread."""
    with pytest.MonkeyPatch.context() as patch:
        for module, functions in doubles.items():
            for name, function in functions.items():
                patch.setattr(module, name, function)
        yield


def doubling():
    """Twice the result of whatever multiplies or moves numbers."""

    def twice(function):
        return functools.wraps(function)(lambda *a, **k: jax.tree.map(lambda y: y + y, function(*a, **k)))

    return replaced(
        {module: {name: twice(getattr(module, name)) for name in names} for module, names in DOUBLED.items()}
    )


def raising():
    """No public function of either module can be called, except by JAX's own Pallas, which does so."""

    def refuse(name, function):
        def call(*arguments, **options):
            caller = pathlib.PurePath(sys._getframe(1).f_code.co_filename)
            if any(caller.is_relative_to(part) for part in PALLAS):
                return function(*arguments, **options)
            raise Intercepted(name)

        return call

    return replaced(
        {
            module: {name: refuse(f"{module.__name__}.{name}", f) for name, f in functions(module).items()}
            for module in (lax, jnp)
        }
    )


@contextlib.contextmanager
def exchanged():
    """The code of JAX's functions themselves exchanged for one that doubles, as qwix does."""
    undo = []
    for function in (lax.conv_general_dilated, lax.dot_general, jnp.einsum):
        parts = {name: getattr(function, name) for name in ("__code__", "__defaults__", "__kwdefaults__")}
        own = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
        own.__kwdefaults__ = function.__kwdefaults__
        function.__globals__[f"own_{function.__name__}"] = own
        made = {}
        exec(f"def double(*a, **k):\n    y = own_{function.__name__}(*a, **k)\n    return y + y", made)
        function.__code__, function.__defaults__, function.__kwdefaults__ = made["double"].__code__, None, None
        undo.append((function, parts))
    try:
        yield
    finally:
        for function, parts in undo:
            del function.__globals__[f"own_{function.__name__}"]
            for name, value in parts.items():
                setattr(function, name, value)
