"""The layers of whole models: what an interpreter has for each framework, and the one that draws the weights.

Every framework's interpreter has the methods of `Outlines`, with tensors of its own. The layers come in the order in
which the model calls them, and each takes the next of the weights.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .cases import Array

Weights = dict[str, Array]
EPSILON = {"batch": 1e-5, "layer": 1e-6}
"""What the normalisations add to the variance: the defaults of Flax and PyTorch, and of ConvNeXt's authors."""
LEAK = 0.2
"""The slope of the leaky rectifier in DCGAN."""


def pads_of(kernel: int, dilation: int, padding: int | str, rank: int) -> tuple[tuple[int, int], ...]:
    """A number of positions at both ends, or `'causal'`: the whole reach of the kernel at the start."""
    if padding == "causal":
        return (((kernel - 1) * dilation, 0),) * rank
    return ((int(padding), int(padding)),) * rank


@dataclasses.dataclass(frozen=True)
class Outline:
    """A tensor, channels last, of which only the shape is known; sums and products keep that of the left one."""

    shape: tuple[int, ...]

    def __add__(self, other: Any) -> "Outline":
        return self

    def __mul__(self, other: Any) -> "Outline":
        return self


class Outlines:
    """Passes shapes through the layers, draws their weights, and counts the work of one forward pass."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.kinds: list[str] = []
        self.weights: list[Weights] = []
        self.flops = 0
        self.elements = 0

    def conv(
        self,
        x: Outline,
        features: int,
        kernel: int,
        stride: int = 1,
        *,
        padding: int | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> Outline:
        """A convolution. `padding` is that of `pads_of`."""
        rank, c_in = len(x.shape) - 2, x.shape[-1]
        pads = pads_of(kernel, dilation, padding, rank)
        size = [
            (n + low + high - (kernel - 1) * dilation - 1) // stride + 1
            for n, (low, high) in zip(x.shape[1:-1], pads, strict=True)
        ]
        y = Outline((x.shape[0], *size, features))
        shape = (*(kernel,) * rank, c_in // groups, features)
        self._layer("conv", x, y, shape, math.prod(y.shape), kernel**rank, bias)
        return y

    def up(
        self, x: Outline, features: int, kernel: int, stride: int, *, padding: int = 0, bias: bool = True
    ) -> Outline:
        """A transposed convolution, `(n - 1) * stride + kernel - 2 * padding` wide."""
        size = [(n - 1) * stride + kernel - 2 * padding for n in x.shape[1:-1]]
        y = Outline((x.shape[0], *size, features))
        taps = kernel ** len(size)
        shape = (*(kernel,) * len(size), x.shape[-1], features)
        self._layer("up", x, y, shape, math.prod(x.shape[:-1]) * features, taps / stride ** len(size), bias)
        return y

    def dense(self, x: Outline, features: int) -> Outline:
        """A matrix product over the channels, at every position."""
        y = Outline((*x.shape[:-1], features))
        self._layer("dense", x, y, (x.shape[-1], features), math.prod(y.shape), 1, True)
        return y

    def _layer(
        self, kind: str, x: Outline, y: Outline, shape: tuple[int, ...], sums: int, taps: float, bias: bool
    ) -> None:
        """`sums` each run over all but the last of `shape`, and `taps` of the positions meet in an activation."""
        # Each output sums about this many products, so that activations keep their size from layer to layer.
        weights = {"kernel": self._drawn(shape, (2 / (shape[-2] * taps)) ** 0.5)}
        if bias:
            weights["bias"] = self._drawn(shape[-1:], 0.1)
        self._append(kind, weights)
        self.flops += 2 * sums * math.prod(shape[:-1])
        self.elements += sum(map(math.prod, (x.shape, shape, y.shape)))

    def norm(self, x: Outline, kind: str) -> Outline:
        """`'batch'`: by the batch's own statistics, as in training; `'layer'`: over the channels of each position."""
        shape = x.shape[-1:]
        self._append("norm", {"scale": 1 + self._drawn(shape, 0.1), "bias": self._drawn(shape, 0.1)})
        return x

    def scale(self, x: Outline) -> Outline:
        """A learnt factor for each channel."""
        self._append("scale", {"scale": 0.5 + self._drawn(x.shape[-1:], 0.1)})
        return x

    def activate(self, x: Outline, name: str) -> Outline:
        """relu, relu6, leaky_relu (slope `LEAK`), gelu (exact), tanh or sigmoid."""
        return x

    def max_pool(self, x: Outline, window: int, stride: int, padding: int = 0) -> Outline:
        size = [(n + 2 * padding - window) // stride + 1 for n in x.shape[1:-1]]
        return Outline((x.shape[0], *size, x.shape[-1]))

    def mean(self, x: Outline) -> Outline:
        """Over all positions."""
        return Outline((x.shape[0], x.shape[-1]))

    def flatten(self, x: Outline) -> Outline:
        """Positions first, then channels."""
        return Outline((x.shape[0], math.prod(x.shape[1:])))

    def image(self, x: Outline, size: Sequence[int]) -> Outline:
        """What `flatten` undoes: of the given spatial sizes."""
        return Outline((x.shape[0], *size, x.shape[-1] // math.prod(size)))

    def join(self, parts: Sequence[Outline]) -> Outline:
        """Side by side in the channels."""
        return Outline((*parts[0].shape[:-1], sum(part.shape[-1] for part in parts)))

    def batch(self, parts: Sequence[Outline]) -> Outline:
        """One after the other in the batch."""
        return Outline((sum(part.shape[0] for part in parts), *parts[0].shape[1:]))

    def sample(self, mean: Outline, log_variance: Outline, noise: Outline) -> Outline:
        """`mean + exp(log_variance / 2) * noise`."""
        return mean

    def squared_error(self, y: Outline, target: Any) -> Outline:
        """The mean over all elements, a scalar."""
        if y.shape != target.shape:
            raise ValueError(f"outputs of shape {y.shape}, targets of shape {target.shape}; expected the same")
        return Outline(())

    def divergence(self, mean: Outline, log_variance: Outline) -> Outline:
        """The mean of what each coordinate adds to the Kullback-Leibler divergence from the normal distribution."""
        return Outline(())

    def _append(self, kind: str, weights: Weights) -> None:
        self.kinds.append(kind)
        self.weights.append(weights)

    def _drawn(self, shape: tuple[int, ...], scale: float) -> Array:
        drawn: Array = (scale * self.rng.standard_normal(shape)).astype("float32")
        return drawn
