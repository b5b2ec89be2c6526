"""`to_lax`: functions whose programs hold only `jax.lax`'s operations, for tools that know no others."""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeAlias, TypeVar

import jax

from ._arguments import described
from ._engine.engine import Engine
from ._errors import blames_caller, refusal
from ._formulations.blocks import pad
from ._geometry import extent
from ._jax_compat import eval_jaxpr, inlined, is_program, with_equations, with_rules
from ._jax_operations import lax
from ._operator.lowering import by_lax
from ._operator.primitive import transposed_convolution_p

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Pairs: TypeAlias = Sequence[tuple[Any, Any]]


@blames_caller
def to_lax(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function` with each transposed convolution of this library replaced by `jax.lax`'s own operations.

    For tools that know JAX's operations and no others: exporters to ONNX and TFLite, counters of FLOPs. The result is
    a function like any other: it may be jitted, differentiated, mapped, exported. Convolutions are also replaced inside
    `jit`, `scan`, `while_loop`, `cond`, `checkpoint`, `vmap`, `shard_map`, `custom_jvp`, `custom_vjp` and
    `custom_vmap`, in the rules of the latter three, and in gradients.

    The order of `grad` and `to_lax` matters. `to_lax(jax.grad(f))` keeps the fast form that this library gives to
    gradients. `jax.grad(to_lax(f))` differentiates `lax`'s operations by JAX's own rules, whose kernel gradients are
    slow on CPU.

    Args:
      function: any callable that takes and returns arrays in pytrees. It is traced at each call, as `jax.jit` does at
        the first. Arguments that are not arrays reach it as they are, and what it returns beside arrays is returned as
        it is.

    Returns: a function of the same arguments with the same results, up to rounding. Whatever its `method`, a transposed
      convolution becomes one `jax.lax.conv_general_dilated` with `lhs_dilation`, channels last, and a kernel
      `[*k, in / groups, out]`. Where its two ends are cropped unequally, a slice crops, because TensorFlow's converter
      to TFLite misreads such pads.

    Raises:
      TypeError: `function` is not callable.

    Nothing is replaced in what is no longer a program of JAX when `function` is called: functions that were exported or
    compiled before, and host callbacks.

    Example:
      >>> import jax, jax.numpy as jnp, jdeconv
      >>> x, w = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 2, 3))
      >>> f = lambda x: jdeconv.conv2d_transpose(x, w, None, 2)
      >>> [str(equation.primitive) for equation in jax.make_jaxpr(f)(x).eqns if "conv" in str(equation.primitive)]
      ['transposed_convolution']
      >>> f = jdeconv.to_lax(f)
      >>> [str(equation.primitive) for equation in jax.make_jaxpr(f)(x).eqns if "conv" in str(equation.primitive)]
      ['conv_general_dilated']
    """
    if not callable(function):
        raise refusal(
            TypeError,
            "function",
            described(function),
            "it can't be called",
            "expected a function of arrays",
            "Give the function itself, not its result.",
        )
    return _replacing(function)


def _replacing(function: Callable[..., Any]) -> Callable[..., Any]:
    # `updated` is empty because the attributes of a Flax or Equinox module are its parameters.
    @functools.wraps(function, updated=())
    def replaced(*arguments: Any, **options: Any) -> Any:
        beside: list[Any] = []

        def arrays() -> list[jax.Array]:
            leaves, tree = jax.tree.flatten(function(*arguments, **options))
            traced = [isinstance(leaf, jax.Array) for leaf in leaves]
            beside[:] = tree, [None if is_ else leaf for leaf, is_ in zip(leaves, traced, strict=True)], traced
            return [leaf for leaf, is_ in zip(leaves, traced, strict=True) if is_]

        # The traced function closes over the arguments, so that transformations around the call see them.
        program = _in_lax(jax.make_jaxpr(arrays)())
        results = iter(eval_jaxpr(program.jaxpr, program.consts))
        tree, others, traced = beside
        leaves = [next(results) if is_ else other for other, is_ in zip(others, traced, strict=True)]
        return jax.tree.unflatten(tree, leaves)

    return replaced


# Each program's replacement, so that JAX's caches find it again. None: the program stays (a value can't hold its key).
_known: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def _in_lax(program: Any) -> Any:
    """The program with the operator replaced; itself if the operator is not in it."""
    if program not in _known:
        changed = with_equations(program, _equations)
        _known[program] = None if changed is program else changed
    known = _known[program]
    return program if known is None else known


def _equations(equation: Any) -> list[Any]:
    if equation.primitive is transposed_convolution_p:
        return inlined(functools.partial(by_lax, _ForTools, **equation.params), equation)
    changed = {name: _parameter(value) for name, value in equation.params.items()}
    changed |= with_rules(equation, _parameter, _replacing)
    if all(changed[name] is value for name, value in equation.params.items()):
        return [equation]
    return [equation.replace(params=changed)]


def _parameter(value: Any) -> Any:
    """A parameter, or what a rule returns, with the programs in it changed, also in tuples, lists and dictionaries."""
    if is_program(value):
        return _in_lax(value)
    if isinstance(value, dict):
        changed = {key: _parameter(inner) for key, inner in value.items()}
        return value if all(changed[key] is inner for key, inner in value.items()) else changed
    if not isinstance(value, tuple | list):
        return value
    items = [_parameter(inner) for inner in value]
    if all(new is old for new, old in zip(items, value, strict=True)):
        return value
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


class _ForTools(Engine):
    """Convolutions in the form that tools translate: channels last (`NHWC`, `HWIO`, other ranks alike), plain pads."""

    def conv(
        self, lhs: jax.Array, rhs: jax.Array, *, dimension_numbers: lax.ConvDimensionNumbers, **arguments: Any
    ) -> jax.Array:
        images, kernels, results = dimension_numbers
        rank = lhs.ndim - 2
        lhs = lax.transpose(lhs, (images[0], *images[2:], images[1]))
        rhs = lax.transpose(rhs, (*kernels[2:], kernels[1], kernels[0]))
        crops: Pairs = []
        if strides := arguments.get("lhs_dilation"):
            extents = [*map(extent, rhs.shape, arguments["rhs_dilation"])]
            arguments["padding"], crops = _plain_pads(arguments["padding"], extents, strides)
        last = (0, rank + 1, *range(1, rank + 1))
        numbers = lax.ConvDimensionNumbers(last, (rank + 1, rank, *range(rank)), last)
        y = _cropped(super().conv(lhs, rhs, dimension_numbers=numbers, **arguments), crops)
        places = dict(zip(results, last, strict=True))
        return lax.transpose(y, [places[axis] for axis in range(rank + 2)])


def _plain_pads(padding: Pairs, extents: Sequence[int], strides: Sequence[int]) -> tuple[Pairs, Pairs]:
    """Pads that no tool misreads, and what is then to be cropped at both ends (where negative, added).

    TensorFlow 2.21's converter to TFLite guesses the pads of a transposed convolution from its sizes. Where the ends
    are cropped unequally its results are wrong (k 3, s 2: 'SAME', and PyTorch's padding of 1). It is right where
    nothing is cropped, and where equal crops leave as many outputs for each input as the stride.
    """
    crops = [(e - 1 - low, e - 1 - high) for e, (low, high) in zip(extents, padding, strict=True)]
    same = all(low == high and low + high == e - s for (low, high), e, s in zip(crops, extents, strides, strict=True))
    if max(strides) == 1 or same:
        return padding, []
    return [(e - 1, e - 1) for e in extents], crops


def _cropped(y: jax.Array, crops: Pairs) -> jax.Array:
    """`y` cropped in its spatial dimensions, between the first and the last."""
    starts, ends = ([0, *(max(pair[side], 0) for pair in crops), 0] for side in (0, 1))
    if any((*starts, *ends)):
        y = lax.slice(y, starts, [size - end for size, end in zip(y.shape, ends, strict=True)])
    added = [(max(-low, 0), max(-high, 0)) for low, high in crops]
    return pad(y, added) if any(map(any, added)) else y
