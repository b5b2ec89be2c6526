"""Whole models in PyTorch, eager: the functions that its own layers call."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..work.cases import Array
from ..work.layers import EPSILON, LEAK, pads_of
from ..work.models import Given, Model
from .entry import Entry
from .layouts import channels_first, from_io_kernel, io_kernel
from .torch import Torch, convolution


class Layers:
    """Each layer takes the next of the weights, and each normalisation of batches the next of the statistics."""

    def __init__(self, torch: Any, weights: Sequence[dict[str, Any]], statistics: Sequence[tuple[Any, Any]]) -> None:
        self.torch = torch
        self.functional = torch.nn.functional
        self.weights = iter(weights)
        self.statistics: Iterator[tuple[Any, Any]] = iter(statistics)

    def conv(
        self,
        x: Any,
        features: int,
        kernel: int,
        stride: int = 1,
        *,
        padding: int | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> Any:
        layer, pads = next(self.weights), pads_of(kernel, dilation, padding, x.ndim - 2)
        return convolution(self.torch, x, layer["kernel"], layer.get("bias"), stride, pads, dilation, groups)

    def up(self, x: Any, features: int, kernel: int, stride: int, *, padding: int = 0, bias: bool = True) -> Any:
        layer = next(self.weights)
        function = getattr(self.functional, f"conv_transpose{x.ndim - 2}d")
        return function(x, layer["kernel"], layer.get("bias"), stride, padding)

    def dense(self, x: Any, features: int) -> Any:
        layer = next(self.weights)
        return _over_channels(x, lambda x: self.functional.linear(x, layer["kernel"], layer["bias"]))

    def norm(self, x: Any, kind: str) -> Any:
        layer, shape = next(self.weights), x.shape[1:2]
        if kind == "batch":
            kept = next(self.statistics)
            return self.functional.batch_norm(x, *kept, layer["scale"], layer["bias"], training=True, eps=EPSILON[kind])
        function = self.functional.layer_norm
        return _over_channels(x, lambda x: function(x, shape, layer["scale"], layer["bias"], EPSILON[kind]))

    def scale(self, x: Any) -> Any:
        layer = next(self.weights)
        return _over_channels(x, lambda x: x * layer["scale"])

    def activate(self, x: Any, name: str) -> Any:
        return self.functional.leaky_relu(x, LEAK) if name == "leaky_relu" else getattr(self.functional, name)(x)

    def max_pool(self, x: Any, window: int, stride: int, padding: int = 0) -> Any:
        return getattr(self.functional, f"max_pool{x.ndim - 2}d")(x, window, stride, padding)

    def mean(self, x: Any) -> Any:
        return x.mean(tuple(range(2, x.ndim)))

    def flatten(self, x: Any) -> Any:
        return x.movedim(1, -1).reshape(len(x), -1)

    def image(self, x: Any, size: Sequence[int]) -> Any:
        return x.reshape(len(x), *size, -1).movedim(-1, 1)

    def join(self, parts: Sequence[Any]) -> Any:
        return self.torch.cat(parts, dim=1)

    def batch(self, parts: Sequence[Any]) -> Any:
        return self.torch.cat(parts)

    def sample(self, mean: Any, log_variance: Any, noise: Any) -> Any:
        return mean + self.torch.exp(log_variance / 2) * noise

    def squared_error(self, y: Any, target: Any) -> Any:
        return self.functional.mse_loss(y, target)

    def divergence(self, mean: Any, log_variance: Any) -> Any:
        return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def _over_channels(x: Any, function: Callable[[Any], Any]) -> Any:
    """The function with the channels last, which moves nothing in the channels-last memory format."""
    return function(x.movedim(1, -1)).movedim(-1, 1)


def model_entry(memory: str, model: Model, given: Given, dtype: str, pass_: str) -> Entry:
    """The same step as JAX's; `memory` is `'channels-last'` or `'contiguous'`."""
    peer = Torch(dtype, memory, model.rank)
    torch = peer.torch
    inputs = [peer.tensor(channels_first(array) if array.ndim > 2 else array) for array in given.inputs]
    weights = [
        {role: peer.tensor(_own(kind, array)) for role, array in layer.items()}
        for kind, layer in zip(given.kinds, given.weights, strict=True)
    ]
    wanted = [layer[role] for layer in weights for role in sorted(layer)]
    for tensor in wanted:
        tensor.requires_grad_()
    statistics = [
        (torch.zeros_like(layer["scale"], requires_grad=False), torch.ones_like(layer["scale"], requires_grad=False))
        for layer in weights
        if "kernel" not in layer
    ]

    def step() -> Any:
        loss = model.loss(Layers(torch, weights, statistics), *inputs)
        return loss, torch.autograd.grad(loss, wanted)

    def results(found: Any) -> list[Array]:
        loss, gradients = found
        kinds = [kind for kind, layer in zip(given.kinds, weights, strict=True) for _ in layer]
        read = map(peer.read, gradients)
        return [peer.read(loss), *(_flax(kind, array) for kind, array in zip(kinds, read, strict=True))]

    return Entry(peer.finished(step), results)


def _own(kind: str, array: Array) -> Array:
    """PyTorch's weights of a layer, made from Flax's."""
    if array.ndim == 1:
        return array
    if kind == "up":
        return io_kernel(_turned(array).swapaxes(-1, -2))
    return io_kernel(array)


def _flax(kind: str, array: Array) -> Array:
    """Flax's weights of a layer, made from PyTorch's."""
    if array.ndim == 1:
        return array
    array = from_io_kernel(array)
    return _turned(array.swapaxes(-1, -2)) if kind == "up" else array


def _turned(kernel: Array) -> Array:
    """The kernel `(*K, a, b)` with its taps in reverse: Flax's transposed convolutions slide it as it is."""
    return np.flip(kernel, tuple(range(kernel.ndim - 2)))
