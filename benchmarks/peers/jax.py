"""Every peer that runs on JAX: an operation and the layout of its kernels, put into the same steps."""

import functools
import importlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jdeconv

from ..work.cases import Array, Case, Ensemble
from ..work.models import Given, Model
from ..work.ordinary import Ordinary
from ..work.stacks import Stack, Tensors, network
from .entry import Costs, Entry
from .layouts import convolution_kernel


class Operation(NamedTuple):
    """`apply(case, x, w)`; `own` makes the kernel that it takes from jdeconv's, and jdeconv's from that."""

    apply: Callable[[Case, jax.Array, jax.Array], jax.Array]
    own: Callable[[Array, int], Array] = lambda w, groups: w


def of_jdeconv(method: str) -> Operation:
    def apply(case: Case, x: jax.Array, w: jax.Array) -> jax.Array:
        return jdeconv.conv_transpose(x, w, case.shapes[2], case.stride, "SAME", method=method)

    return Operation(apply)


def of_lax(case: Case) -> Operation:
    """`lax.conv_transpose`, or for groups, which it has not, the convolution that it would call."""

    def dense(case: Case, x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_transpose(x, w, case.stride, "SAME", transpose_kernel=True)

    def grouped(case: Case, x: jax.Array, w: jax.Array) -> jax.Array:
        return _convolution(case, x, w, _dilated_pads(case), lhs_dilation=case.stride)

    return Operation(dense) if case.groups == 1 else Operation(grouped, convolution_kernel)


def _zero_stuffing(case: Case, x: jax.Array, w: jax.Array) -> jax.Array:
    """Equinox's way since its pull request 1259: zeros between the pixels by `lax.pad`, then a convolution."""
    inner = [(low, high, stride - 1) for (low, high), stride in zip(_dilated_pads(case), case.stride, strict=True)]
    stuffed = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *inner, (0, 0, 0)])
    return _convolution(case, stuffed, w, [(0, 0)] * case.rank)


ZERO_STUFFING = Operation(_zero_stuffing, convolution_kernel)


def _dilated_pads(case: Case) -> list[tuple[int, int]]:
    pads = []
    for size, out, k, s in zip(case.size, case.out_size, case.kernel, case.stride, strict=True):
        low = k - 1 - max(k - s, 0) // 2
        pads.append((low, out - 1 + k - ((size - 1) * s + 1) - low))
    return pads


def _convolution(case: Case, x: jax.Array, w: jax.Array, pads: list[tuple[int, int]], **more: Any) -> jax.Array:
    numbers = _numbers(case.rank)
    return lax.conv_general_dilated(
        x, w, (1,) * case.rank, pads, dimension_numbers=numbers, feature_group_count=case.groups, **more
    )


def _numbers(rank: int) -> tuple[str, str, str]:
    spatial = "DHW"[-rank:]
    return f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"


def of_flax(case: Case) -> Operation:
    """Flax's layer, without its bias."""
    if case.groups > 1:
        raise NotImplementedError("Flax's layer has no groups")
    nnx = importlib.import_module("flax.nnx")
    layer = nnx.ConvTranspose(
        case.c_in, case.c_out, case.kernel, case.stride, transpose_kernel=True, use_bias=False, rngs=nnx.Rngs(0)
    )
    graph, _ = nnx.split(layer)

    def apply(case: Case, x: jax.Array, w: jax.Array) -> jax.Array:
        return nnx.merge(graph, nnx.State({"kernel": nnx.Param(w)}))(x)

    return Operation(apply)


def of_keras(case: Case) -> Operation:
    if case.groups > 1:
        raise NotImplementedError("keras.ops.conv_transpose has no groups")
    keras = importlib.import_module("keras")
    if (backend := keras.backend.backend()) != "jax":  # whoever imported it first chose that
        raise NotImplementedError(f"Keras runs on {backend} in this process")

    def apply(case: Case, x: jax.Array, w: jax.Array) -> jax.Array:
        return keras.ops.conv_transpose(x, w, case.stride, "same", data_format="channels_last")

    return Operation(apply)


def case_entry(
    operation: Operation | Callable[[Case], Operation],
    case: Case,
    arrays: tuple[Array, Array, Array],
    dtype: str,
    pass_: str,
) -> Entry:
    """One convolution."""
    chosen = operation if isinstance(operation, Operation) else operation(case)

    def own(w: Array) -> Array:
        return chosen.own(w, case.groups)

    x, w, y = arrays
    return _entry(functools.partial(chosen.apply, case), (x, own(w), y), dtype, pass_, own)


def ordinary_entry(
    convolution: Callable[..., jax.Array], work: Ordinary, arrays: tuple[Array, Array, Array], dtype: str, pass_: str
) -> Entry:
    """One ordinary convolution, by a function with the signature of `lax.conv_general_dilated`."""

    def apply(x: jax.Array, w: jax.Array) -> jax.Array:
        return convolution(
            x,
            w,
            work.stride,
            work.pads,
            rhs_dilation=(work.dilation,) * work.rank,
            dimension_numbers=_numbers(work.rank),
            feature_group_count=work.groups,
        )

    return _entry(apply, arrays, dtype, pass_, lambda w: w)


def ensemble_entry(
    operation: Operation | Callable[[Case], Operation],
    loop: bool,
    ensemble: Ensemble,
    arrays: tuple[Array, Array, Array],
    dtype: str,
    pass_: str,
) -> Entry:
    """`vmap` over both operands, or a Python loop over the members, unrolled into one program."""
    chosen = operation if isinstance(operation, Operation) else operation(ensemble.case)
    one = functools.partial(chosen.apply, ensemble.case)

    def looped(xs: jax.Array, ws: jax.Array) -> jax.Array:
        return jnp.stack([one(xs[member], ws[member]) for member in range(ensemble.members)])

    return _entry(looped if loop else jax.vmap(one), arrays, dtype, pass_, lambda w: w)


def _entry(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    arrays: tuple[Array, Array, Array],
    dtype: str,
    pass_: str,
    own: Callable[[Array], Array],
) -> Entry:
    def forward(x: jax.Array, w: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
        return (function(x, w),)

    def train(x: jax.Array, w: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(function, x, w)
        return (out, *pull(y))

    def results(found: tuple[jax.Array, ...]) -> list[Array]:
        y, *bars = (np.asarray(array, "float32") for array in found)
        return [y, bars[0], own(bars[1])] if bars else [y]

    step, costs = compiled({"forward": forward, "train": train}[pass_], *(jnp.asarray(a, dtype) for a in arrays))
    return Entry(step, results, costs)


def stack_entry(
    operation: Operation | Callable[[Case], Operation], stack: Stack, arrays: Tensors, dtype: str, pass_: str
) -> Entry:
    """The loss, the output, and the gradients of the input, the weights and the biases."""
    layers = [layer.case for layer in stack.layers]
    chosen = {case: operation if isinstance(operation, Operation) else operation(case) for case in layers}

    def convolution(case: Case, x: jax.Array, w: jax.Array, bias: jax.Array) -> jax.Array:
        # XLA sums the gradient of a bias in the type of the sum that it was part of, which bfloat16 is too coarse for.
        return (chosen[case].apply(case, x, w).astype("float32") + bias).astype(dtype)

    def loss(x: jax.Array, weights: Any, biases: Any, given: Tensors) -> tuple[jax.Array, jax.Array]:
        tensors = given._replace(x=x, weights=weights, biases=biases)
        y = network(stack, tensors, convolution, jax.nn, functools.partial(jnp.concatenate, axis=-1))
        return jnp.square(y.astype("float32") - given.target).mean(), y

    def step(given: Tensors) -> Any:
        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(given.x, given.weights, given.biases, given)

    def results(found: Any) -> list[Array]:
        (_, y), (x, weights, biases) = found
        own = [chosen[case].own(np.asarray(w, "float32"), case.groups) for case, w in zip(layers, weights, strict=True)]
        return [*(np.asarray(array, "float32") for array in (y, x)), *own, *map(np.asarray, biases)]

    weights = [chosen[case].own(w, case.groups) for case, w in zip(layers, arrays.weights, strict=True)]
    typed = jax.tree.map(lambda array: jnp.asarray(array, dtype), arrays._replace(weights=weights))
    typed = typed._replace(biases=list(map(jnp.asarray, arrays.biases)), target=jnp.asarray(arrays.target))
    run, costs = compiled(step, typed)
    return Entry(run, results, costs)


def compiled(step: Callable[..., Any], *arguments: Any) -> tuple[Callable[[], Any], Costs]:
    start = time.perf_counter()
    program = jax.jit(step).trace(*arguments).lower().compile()
    taken = time.perf_counter() - start
    memory = program.memory_analysis()
    temporary = None if memory is None else int(memory.temp_size_in_bytes)
    return lambda: jax.block_until_ready(program(*arguments)), Costs(taken, temporary)


def reference(work: Case | Ordinary | Stack | Ensemble, arrays: Any, dtype: str, pass_: str) -> list[Array]:
    """What all peers are compared with: lax in float32, at full precision, whatever `dtype` the peers run in."""
    with jax.default_matmul_precision("highest"):
        if isinstance(work, Ordinary):
            entry = ordinary_entry(lax.conv_general_dilated, work, arrays, "float32", pass_)
        elif isinstance(work, Stack):
            entry = stack_entry(of_lax, work, arrays, "float32", pass_)
        elif isinstance(work, Ensemble):
            entry = ensemble_entry(of_lax, True, work, arrays, "float32", pass_)
        else:
            entry = case_entry(of_lax, work, arrays, "float32", pass_)
        return entry.results(entry.run())


def references_of_model(model: Model, givens: Sequence[Given]) -> list[list[Array]]:
    """The same of a model, for each of `givens`."""
    with jax.default_matmul_precision("highest"):
        found: list[list[Array]] = importlib.import_module(".models_flax", __package__).references(model, givens)
        return found
