"""Whole models as Flax linen modules, jitted: plain JAX, and the same modules under `jdeconv.patch()`."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jdeconv

from ..work.cases import Array
from ..work.layers import EPSILON, LEAK, pads_of
from ..work.models import Given, Model
from .entry import Entry
from .jax import compiled

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "relu6": nn.relu6,
    "leaky_relu": lambda x: nn.leaky_relu(x, LEAK),
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
}


class LayerScale(nn.Module):
    """A learnt factor for each channel."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.param("scale", nn.initializers.ones, x.shape[-1:])


class Layers:
    """Flax's own layers, named by their number."""

    def __init__(self) -> None:
        self.count = 0

    def _name(self) -> str:
        self.count += 1
        return _name(self.count - 1)

    def conv(
        self,
        x: jax.Array,
        features: int,
        kernel: int,
        stride: int = 1,
        *,
        padding: int | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> jax.Array:
        rank = x.ndim - 2
        return nn.Conv(
            features,
            (kernel,) * rank,
            stride,
            "CAUSAL" if padding == "causal" else pads_of(kernel, dilation, padding, rank),
            kernel_dilation=dilation,
            feature_group_count=groups,
            use_bias=bias,
            name=self._name(),
        )(x)

    def up(
        self, x: jax.Array, features: int, kernel: int, stride: int, *, padding: int = 0, bias: bool = True
    ) -> jax.Array:
        rank, pad = x.ndim - 2, kernel - 1 - padding  # Flax counts what the dilated input is padded with
        return nn.ConvTranspose(
            features, (kernel,) * rank, (stride,) * rank, ((pad, pad),) * rank, use_bias=bias, name=self._name()
        )(x)

    def dense(self, x: jax.Array, features: int) -> jax.Array:
        return nn.Dense(features, name=self._name())(x)

    def norm(self, x: jax.Array, kind: str) -> jax.Array:
        if kind == "batch":
            return nn.BatchNorm(use_running_average=False, epsilon=EPSILON[kind], name=self._name())(x)
        return nn.LayerNorm(epsilon=EPSILON[kind], name=self._name())(x)

    def scale(self, x: jax.Array) -> jax.Array:
        return LayerScale(name=self._name())(x)

    def activate(self, x: jax.Array, name: str) -> jax.Array:
        return ACTIVATIONS[name](x)

    def max_pool(self, x: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
        rank = x.ndim - 2
        return nn.max_pool(x, (window,) * rank, (stride,) * rank, ((padding, padding),) * rank)

    def mean(self, x: jax.Array) -> jax.Array:
        return x.mean(tuple(range(1, x.ndim - 1)))

    def flatten(self, x: jax.Array) -> jax.Array:
        return x.reshape(len(x), -1)

    def image(self, x: jax.Array, size: Sequence[int]) -> jax.Array:
        return x.reshape(len(x), *size, -1)

    def join(self, parts: Sequence[jax.Array]) -> jax.Array:
        return jnp.concatenate(parts, axis=-1)

    def batch(self, parts: Sequence[jax.Array]) -> jax.Array:
        return jnp.concatenate(parts)

    def sample(self, mean: jax.Array, log_variance: jax.Array, noise: jax.Array) -> jax.Array:
        return mean + jnp.exp(log_variance / 2) * noise

    def squared_error(self, y: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.square(y - target).mean()

    def divergence(self, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
        return 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance).mean()


class Network(nn.Module):
    """The model as a module; its value is the loss."""

    loss: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        return self.loss(Layers(), *inputs)


def model_entry(patched: bool, model: Model, given: Given, dtype: str, pass_: str) -> Entry:
    """The loss and the gradients of all weights; the batches' statistics are kept up to date, as in training."""
    with jdeconv.patch() if patched else contextlib.nullcontext():
        run, costs = compiled(_step(model), *_arguments(model, given))
    return Entry(run, _results, costs)


def references(model: Model, givens: Sequence[Given]) -> list[list[Array]]:
    """What plain JAX makes of each of `givens`, by one program."""
    step = jax.jit(_step(model))
    return [_results(step(*_arguments(model, given))) for given in givens]


def _step(model: Model) -> Callable[..., Any]:
    network = Network(model.loss)

    def loss(params: Any, statistics: Any, inputs: Sequence[jax.Array]) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": statistics}
        value, updated = network.apply(variables, *inputs, mutable=["batch_stats"])
        return value, updated

    return jax.value_and_grad(loss, has_aux=True)


def _arguments(model: Model, given: Given) -> tuple[Any, Any, list[jax.Array]]:
    inputs = list(map(jnp.asarray, given.inputs))
    params = {_name(index): jax.tree.map(jnp.asarray, weights) for index, weights in enumerate(given.weights)}
    shapes = jax.eval_shape(Network(model.loss).init, jax.random.key(0), *inputs).get("batch_stats", {})
    return params, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), inputs


def _results(found: Any) -> list[Array]:
    (value, _), gradients = found
    layers = (gradients[_name(index)] for index in range(len(gradients)))
    return [np.asarray(value), *(np.asarray(layer[role]) for layer in layers for role in sorted(layer))]


def _name(index: int) -> str:
    return f"layer_{index}"
