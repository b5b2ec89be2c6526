"""The primitive: one sum over input, kernel and output, solved for one of the three.

    sum over n, g, i, o, positions p and taps t:
        input[n, p, g, i] * kernel[t, o, g, i] * output[n, p*stride + t*dilation - low, g, o]

Solved for the output it is the transposed convolution, for the input the strided convolution, and for the kernel the
kernel gradient of both. A derivative of one solution is another solution, so each rule is written once.
"""

import functools
from typing import Any

import jax
import numpy as np

from .._dtypes import common_dtype
from .._errors import blames_caller
from .._formulations import METHODS
from .._geometry import Geometry
from .._jax_compat import BilinearPrimitive, Tracer, defbilinear, primitive_batchers, varying
from .._jax_operations import jnp, lax
from .._plan.choose import AUTO, check_method
from .._plan.problem import Problem

LETTERS = {"input": "n_gi", "kernel": "_ogi", "output": "n_go"}
"""The letters of each role's axes; `_` stands for the spatial ones. Every letter but g is in exactly two roles."""

transposed_convolution_p = BilinearPrimitive("transposed_convolution")


def solve(
    result: str, geometry: Geometry, *, dtype: Any, precision: Any = None, method: str = "auto", **operands: jax.Array
) -> jax.Array:
    """Solves the sum for the role `result`, in `dtype`, from the other two roles, which are given by name.

    Example:
      >>> from jdeconv._geometry import build
      >>> geometry = build((2,), (3,), (2,), (1,), "VALID")
      >>> x, w = jax.numpy.ones((1, 2, 1, 1)), jax.numpy.ones((3, 1, 1, 1))
      >>> solve("output", geometry, dtype=x.dtype, input=x, kernel=w).ravel()
      Array([1., 1., 2., 1., 1.], dtype=float32)
    """
    a, b = _equally_varying(*(operands[role] for role in operand_roles(result)))
    if method != AUTO:  # a method that can't do this case says so now, not in the lowering
        check_method(problem_of(a, b, geometry, result, dtype), method, METHODS)
    return transposed_convolution_p.bind(
        a, b, geometry=geometry, result=result, dtype=np.dtype(dtype), precision=precision, method=method
    )


def kept_from_folding(operand: jax.Array, *given: jax.Array) -> jax.Array:
    """`operand`, which is made of a given array, behind a barrier if the given arrays are all constants of a program.

    XLA would fold an operator of two constants, for up to a minute.
    """
    known = isinstance(operand, Tracer) and not any(isinstance(array, Tracer) for array in given)
    return lax.optimization_barrier(operand) if known else operand


def operand_roles(result: str) -> tuple[str, str]:
    """The other two roles, in the order of the primitive's operands."""
    first, second = (role for role in LETTERS if role != result)
    return first, second


def _axis(role: str, letter: str) -> int:
    """The letter's axis; negative, counted from the end, where spatial axes stand before it."""
    position = LETTERS[role].index(letter)
    return position if position < LETTERS[role].index("_") else position - len(LETTERS[role])


def _equally_varying(*operands: jax.Array) -> list[jax.Array]:
    """Under `shard_map`, makes both vary over the same mesh axes; the transpose of this is a gradient's psum."""
    axes = [varying(jax.typeof(operand)) for operand in operands]
    union = frozenset[str]().union(*axes)
    return [
        lax.pcast(operand, tuple(sorted(union - has)), to="varying") if union - has else operand
        for operand, has in zip(operands, axes, strict=True)
    ]


# Shapes: each letter has the size that it has on an operand; spatial sizes are the geometry's.


def _sizes(a: Any, b: Any, result: str) -> dict[str, Any]:
    return {
        letter: operand.shape[_axis(role, letter)]
        for role, operand in zip(operand_roles(result), (a, b), strict=True)
        for letter in LETTERS[role].replace("_", "")
    }


def result_shape(a: Any, b: Any, geometry: Geometry, result: str) -> tuple[Any, ...]:
    """The shape of the result of operands `a` and `b`."""
    sizes = _sizes(a, b, result)
    before, after = LETTERS[result].split("_")
    spatial = getattr(geometry, result)
    return (*(sizes[letter] for letter in before), *spatial, *(sizes[letter] for letter in after))


def problem_of(a: Any, b: Any, geometry: Geometry, result: str, dtype: Any) -> Problem:
    """What the planner chooses a formulation for."""
    sizes = _sizes(a, b, result)
    wide = common_dtype(a.dtype, b.dtype, dtype)
    return Problem(geometry, result, sizes["n"], sizes["g"], sizes["i"], sizes["o"], np.dtype(wide).name)


@transposed_convolution_p.def_flops
def _flops(a: Any, b: Any, *, geometry: Geometry, result: str, dtype: Any, **parameters: Any) -> Any:
    return problem_of(a, b, geometry, result, dtype).flops


@transposed_convolution_p.def_abstract_eval
def _abstract(a: Any, b: Any, *, geometry: Geometry, result: str, dtype: Any, precision: Any, method: str) -> Any:
    return a.update(
        shape=result_shape(a, b, geometry, result),
        dtype=dtype,
        weak_type=False,
        sharding=a.sharding.update(spec=jax.P()),
    )


# Derivatives: the operand to solve for becomes the result; the cotangent takes the old result's place.


@blames_caller
def _transpose(
    wrt: int, cotangent: Any, a: Any, b: Any, *, geometry: Geometry, result: str, dtype: Any, **parameters: Any
) -> jax.Array:
    del dtype  # the cotangent's; the result has the operand's
    roles, operands = operand_roles(result), (a, b)
    known = {result: cotangent, roles[1 - wrt]: operands[1 - wrt]}
    return solve(roles[wrt], geometry, dtype=operands[wrt].aval.dtype, **known, **parameters)


defbilinear(transposed_convolution_p, functools.partial(_transpose, 0), functools.partial(_transpose, 1))


# Batching: a batch axis of one operand joins the letter that this operand shares with the result; of both, it joins g.


def _batch(operands: Any, axes: Any, *, result: str, **parameters: Any) -> tuple[jax.Array, int]:
    roles = operand_roles(result)
    batched = [role for role, axis in zip(roles, axes, strict=True) if axis is not None]
    letter = (
        "g" if len(batched) == 2 else next(c for c in LETTERS[batched[0]] if c in LETTERS[result] and c not in "_g")
    )
    joined = [
        (operand, ()) if axis is None else _join(operand, axis, _axis(role, letter))
        for role, operand, axis in zip(roles, operands, axes, strict=True)
    ]
    (a, sizes_a), (b, sizes_b) = joined
    y = transposed_convolution_p.bind(a, b, result=result, **parameters)
    axis = _axis(result, letter) % y.ndim
    return y.reshape(*y.shape[:axis], *(sizes_a or sizes_b), *y.shape[axis + 1 :]), axis


def _join(operand: jax.Array, source: int, target: int) -> tuple[jax.Array, tuple[Any, Any]]:
    """Merges the axis `source`, outermost, into the axis at `target` (counted without `source`); also both sizes."""
    target %= operand.ndim - 1
    moved = jnp.moveaxis(operand, source, target)
    size, letter = moved.shape[target : target + 2]
    return moved.reshape(*moved.shape[:target], size * letter, *moved.shape[target + 2 :]), (size, letter)


primitive_batchers[transposed_convolution_p] = _batch
