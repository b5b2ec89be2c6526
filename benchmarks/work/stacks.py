"""Whole networks of transposed convolutions, one training step each, written once for every framework.

The convolution, the activations and the concatenation are parameters, so that all peers run the same layers on the
same weights.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .cases import Array, Case, cube, rounded


class Layer(NamedTuple):
    """`activation(case(join(x, skip)) + bias)`; `skip` channels, if any, come from the other half of a U-Net."""

    case: Case
    activation: str
    skip: int = 0


class Tensors(NamedTuple):
    """What a training step is given; gradients are those of x and of all weights and biases."""

    x: Any
    weights: list[Any]
    biases: list[Any]
    skips: list[Any]
    target: Any


@dataclasses.dataclass(frozen=True)
class Stack:
    """Layers, each fed by the one before."""

    name: str
    layers: tuple[Layer, ...]
    kind: str = "stacks"
    groups: int = 1

    @property
    def flops(self) -> int:
        return sum(layer.case.flops for layer in self.layers)

    @property
    def elements(self) -> int:
        return sum(layer.case.elements for layer in self.layers)

    @property
    def outputs(self) -> int:
        return self.layers[-1].case.outputs

    @property
    def label(self) -> str:
        first, last = self.layers[0].case, self.layers[-1].case
        return (
            f"{len(self.layers)} layers, {first.batch}, {first.size[0]}→{last.out_size[0]}, {first.c_in}→{last.c_out}"
        )

    def arrays(self, dtype: str) -> Tensors:
        rng = np.random.default_rng(0)

        def draw(shape: Sequence[int], scale: float = 1) -> Array:
            return rounded(scale * rng.standard_normal(shape, dtype="float32"), dtype)

        weights, biases, skips = [], [], []
        for case, _, skip in self.layers:
            x_shape, w_shape, y_shape = case.shapes
            # Each output sums about this many products, so activations keep their size from layer to layer.
            terms = case.c_in * math.prod(case.kernel) / math.prod(case.stride)
            weights.append(draw(w_shape, (2 / terms) ** 0.5))
            biases.append(draw(y_shape[-1:], 0.1))
            if skip:
                skips.append(draw((*x_shape[:-1], skip)))
        x_shape, y_shape = self.layers[0].case.shapes[0], self.layers[-1].case.shapes[2]
        return Tensors(draw(x_shape), weights, biases, skips, draw(y_shape))


def network(
    stack: Stack,
    tensors: Tensors,
    convolution: Callable[[Case, Any, Any, Any], Any],
    activations: Any,
    join: Callable[[list[Any]], Any],
) -> Any:
    """The output. `convolution(case, x, w, bias)`; `activations` has a function for each layer's name of one."""
    x, skips = tensors.x, iter(tensors.skips)
    for (case, activation, skip), w, bias in zip(stack.layers, tensors.weights, tensors.biases, strict=True):
        if skip:
            x = join([x, next(skips)])
        x = getattr(activations, activation)(convolution(case, x, w, bias))
    return x


def _chain(
    name: str,
    batch: int,
    size: int,
    channels: Sequence[int],
    steps: Sequence[tuple[int, int]],
    activations: tuple[str, str],
    rank: int = 2,
    skips: bool = False,
) -> Stack:
    """`steps` holds each layer's kernel and stride; `activations` the hidden layers' and the last one's."""
    layers = []
    for index, (kernel, stride) in enumerate(steps):
        skip = channels[index] if skips and index else 0  # a U-Net's skip has as many channels as what it joins
        case = cube(
            f"{name}-{index}", batch, size, (channels[index] + skip, channels[index + 1]), kernel, stride, rank=rank
        )
        layers.append(Layer(case, activations[index == len(steps) - 1], skip))
        size *= stride
    return Stack(name, tuple(layers))


STACKS = (
    # Radford et al. 2015, from the 4x4 image after the projection.
    _chain("dcgan-generator", 16, 4, (1024, 512, 256, 128, 3), [(4, 2)] * 4, ("relu", "tanh")),
    # Ronneberger et al. 2015: the 2x2 up-samplings and the skips that they are joined with.
    _chain("unet-decoder", 1, 16, (512, 256, 128, 64, 32), [(2, 2)] * 4, ("relu", "relu"), skips=True),
    # Kernel 3 with stride 2, as in PyTorch-VAE, and a last layer of stride 1.
    _chain("vae-decoder", 16, 2, (512, 256, 128, 64, 32, 32, 3), [(3, 2)] * 5 + [(3, 1)], ("leaky_relu", "tanh")),
    # Kong et al. 2020, V1: 8192 samples, the usual segment, without the residual blocks between.
    _chain(
        "hifigan-upsampler",
        8,
        32,
        (512, 256, 128, 64, 32),
        [(16, 8), (16, 8), (4, 2), (4, 2)],
        ("leaky_relu", "tanh"),
        rank=1,
    ),
)
