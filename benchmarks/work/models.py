"""Whole models, one training step each, written once for every framework: the layers of `layers.Outlines`.

The kinds of layers, their widths and their order are the papers'. Blocks that only repeat, images and batches are fewer
or smaller, so that plain JAX's step takes about a second.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .cases import Array
from .layers import Outline, Outlines, Weights


class Given(NamedTuple):
    """What a training step is given; its results are the loss and the gradients of all weights."""

    inputs: list[Any]
    kinds: list[str]  # of each layer, in the order of the calls: conv, up, dense, norm or scale
    weights: list[Weights]  # of each layer, as Flax has them

    def rounded(self, seed: int) -> "Given":
        """Every number moved to the next one of float32, up or down by chance."""
        rng = np.random.default_rng(seed)

        def moved(array: Array) -> Array:
            return np.nextafter(array, rng.choice(np.array([-np.inf, np.inf], "float32"), array.shape))

        weights = [{role: moved(array) for role, array in layer.items()} for layer in self.weights]
        return self._replace(inputs=list(map(moved, self.inputs)), weights=weights)


@dataclasses.dataclass(frozen=True)
class Model:
    """`loss(layers, *inputs)`, with inputs of these shapes, channels last, by name."""

    name: str
    loss: Callable[..., Any]
    inputs: Mapping[str, tuple[int, ...]]
    kind: str = "models"
    groups: int = 1

    @functools.cached_property
    def _outlines(self) -> Outlines:
        layers = Outlines(np.random.default_rng(0))
        self.loss(layers, *map(Outline, self.inputs.values()))
        return layers

    @property
    def rank(self) -> int:
        """Of the images."""
        return max(map(len, self.inputs.values())) - 2

    @property
    def flops(self) -> int:
        return self._outlines.flops

    @property
    def elements(self) -> int:
        return self._outlines.elements

    @property
    def outputs(self) -> int:
        return math.prod(self.inputs["target"])

    @property
    def label(self) -> str:
        shapes = ("x".join(map(str, shape)) for name, shape in self.inputs.items() if name != "target")
        count = sum(array.size for weights in self._outlines.weights for array in weights.values())
        return f"{', '.join(shapes)}; {count / 1e6:.2g} M weights"

    def arrays(self, dtype: str) -> Given:
        rng = np.random.default_rng(1)
        inputs: list[Array] = [rng.standard_normal(shape, "float32") for shape in self.inputs.values()]
        return Given(inputs, self._outlines.kinds, self._outlines.weights)


def unet(layers: Any, x: Any, target: Any) -> Any:
    """Ronneberger et al. 2015, padded so that nothing need be cropped."""
    skips = []
    for width in (64, 128, 256, 512):
        skips.append(_twice(layers, x, (width, width)))
        x = layers.max_pool(skips[-1], 2, 2)
    x = _twice(layers, x, (1024, 1024))
    for width in (512, 256, 128, 64):
        x = _twice(layers, layers.join([skips.pop(), layers.up(x, width, 2, 2)]), (width, width))
    return layers.squared_error(layers.conv(x, 2, 1), target)


def unet3d(layers: Any, x: Any, target: Any) -> Any:
    """Cicek et al. 2016: channels double before the pooling, and batches are normalised before each rectifier."""
    skips = []
    for width in (32, 64, 128):
        skips.append(_twice(layers, x, (width, 2 * width), norm=True))
        x = layers.max_pool(skips[-1], 2, 2)
    x = _twice(layers, x, (256, 512), norm=True)
    for width in (256, 128, 64):
        x = layers.join([skips.pop(), layers.up(x, 2 * width, 2, 2)])
        x = _twice(layers, x, (width, width), norm=True)
    return layers.squared_error(layers.conv(x, 3, 1), target)


def _twice(layers: Any, x: Any, widths: tuple[int, int], norm: bool = False) -> Any:
    for width in widths:
        x = layers.conv(x, width, 3, padding=1, bias=not norm)
        x = layers.activate(layers.norm(x, "batch") if norm else x, "relu")
    return x


def resnet(blocks: tuple[int, ...], groups: int, width: int, layers: Any, x: Any, target: Any) -> Any:
    """He et al. 2015, and with groups Xie et al. 2017; the stride in the 3x3, as in torchvision."""
    x = layers.activate(_normed(layers, x, 64, 7, 2), "relu")
    x = layers.max_pool(x, 3, 2, padding=1)
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and not block else 1
            y = layers.activate(_normed(layers, x, width * 2**stage, 1), "relu")
            y = layers.activate(_normed(layers, y, width * 2**stage, 3, stride, groups), "relu")
            y = _normed(layers, y, 256 * 2**stage, 1)
            x = layers.activate(y + (x if block else _normed(layers, x, 256 * 2**stage, 1, stride)), "relu")
    return layers.squared_error(layers.dense(layers.mean(x), 1000), target)


def _normed(layers: Any, x: Any, features: int, kernel: int, stride: int = 1, groups: int = 1) -> Any:
    y = layers.conv(x, features, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return layers.norm(y, "batch")


def mobilenet(layers: Any, x: Any, target: Any) -> Any:
    """Sandler et al. 2018, table 2, with at most two blocks of a kind, where the paper has up to four."""
    x, width = layers.activate(_normed(layers, x, 32, 3, 2), "relu6"), 32
    for expansion, features, count, first in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 2, 2),
        (6, 64, 2, 2),
        (6, 96, 2, 1),
        (6, 160, 2, 2),
        (6, 320, 1, 1),
    ):
        for block in range(count):
            hidden = expansion * width
            y = layers.activate(_normed(layers, x, hidden, 1), "relu6") if expansion > 1 else x
            y = layers.activate(_normed(layers, y, hidden, 3, 1 if block else first, hidden), "relu6")
            y = _normed(layers, y, features, 1)
            x, width = y + x if block else y, features
    x = layers.activate(_normed(layers, x, 1280, 1), "relu6")
    return layers.squared_error(layers.dense(layers.mean(x), 1000), target)


def convnext(layers: Any, x: Any, target: Any) -> Any:
    """Liu et al. 2022, ConvNeXt-T, with one block a stage, where the paper has 3, 3, 9 and 3."""
    x = layers.norm(layers.conv(x, 96, 4, 4), "layer")
    for width in (96, 192, 384, 768):
        if width > 96:
            x = layers.conv(layers.norm(x, "layer"), width, 2, 2)
        y = layers.norm(layers.conv(x, width, 7, padding=3, groups=width), "layer")
        y = layers.dense(layers.activate(layers.dense(y, 4 * width), "gelu"), width)
        x = x + layers.scale(y)
    return layers.squared_error(layers.dense(layers.norm(layers.mean(x), "layer"), 1000), target)


def wavenet(layers: Any, x: Any, target: Any) -> Any:
    """Van den Oord et al. 2016: 256 levels of sound in and out, gates, dilations of 1 to 512, once."""
    x, skips = layers.conv(x, 64, 2, padding="causal"), []
    for power in range(10):
        value, gate = (layers.conv(x, 64, 2, padding="causal", dilation=2**power) for _ in range(2))
        y = layers.activate(value, "tanh") * layers.activate(gate, "sigmoid")
        skips.append(layers.conv(y, 256, 1))
        if power < 9:
            x = x + layers.conv(y, 64, 1)
    total = functools.reduce(lambda one, other: one + other, skips)
    y = layers.conv(layers.activate(total, "relu"), 256, 1)
    return layers.squared_error(layers.conv(layers.activate(y, "relu"), 256, 1), target)


def dcgan(layers: Any, z: Any, real: Any, target: Any) -> Any:
    """Radford et al. 2015, the kernels of 4 as in their Torch code; one loss for the generator and the discriminator.

    The real images and the generated ones are one batch. The gradients of both networks take the same convolutions as
    a step of each network with its own sign.
    """
    x = z
    for index, width in enumerate((512, 256, 128, 64)):
        x = layers.up(x, width, 4, 2 if index else 1, padding=1 if index else 0, bias=False)
        x = layers.activate(layers.norm(x, "batch"), "relu")
    x = layers.batch([layers.activate(layers.up(x, 3, 4, 2, padding=1), "tanh"), real])
    for index, width in enumerate((64, 128, 256, 512)):
        x = layers.conv(x, width, 4, 2, padding=1, bias=False)
        x = layers.activate(layers.norm(x, "batch") if index else x, "leaky_relu")
    return layers.squared_error(layers.conv(x, 1, 4, bias=False), target)


def vae(layers: Any, x: Any, noise: Any, target: Any) -> Any:
    """Kingma and Welling 2014, with the layers of Burgess et al. 2018."""
    for width in (32, 32, 32, 32):
        x = layers.activate(layers.conv(x, width, 4, 2, padding=1), "relu")
    x = layers.flatten(x)
    for _ in range(2):
        x = layers.activate(layers.dense(x, 256), "relu")
    mean, log_variance = layers.dense(x, 10), layers.dense(x, 10)
    y = layers.sample(mean, log_variance, noise)
    for width in (256, 256, 512):
        y = layers.activate(layers.dense(y, width), "relu")
    y = layers.image(y, (4, 4))
    for index, width in enumerate((32, 32, 32, 3)):
        y = layers.up(y, width, 4, 2, padding=1)
        y = layers.activate(y, "sigmoid" if index == 3 else "relu")
    return layers.squared_error(y, target) + layers.divergence(mean, log_variance)


def _classifier(name: str, loss: Callable[..., Any], batch: int, size: int) -> Model:
    return Model(name, loss, {"x": (batch, size, size, 3), "target": (batch, 1000)})


MODELS = (
    Model("unet", unet, {"x": (1, 96, 96, 1), "target": (1, 96, 96, 2)}),
    _classifier("resnet50", functools.partial(resnet, (2, 2, 2, 2), 1, 64), 4, 128),
    _classifier("mobilenetv2", mobilenet, 4, 96),
    _classifier("convnext", convnext, 4, 64),
    _classifier("resnext50", functools.partial(resnet, (1, 1, 1, 1), 32, 128), 2, 64),
    Model("wavenet", wavenet, {"x": (1, 4096, 256), "target": (1, 4096, 256)}),
    Model("unet3d", unet3d, {"x": (1, 16, 16, 16, 3), "target": (1, 16, 16, 16, 3)}),
    Model("dcgan", dcgan, {"z": (16, 1, 1, 100), "real": (16, 64, 64, 3), "target": (32, 1, 1, 1)}),
    Model("vae", vae, {"x": (32, 64, 64, 3), "noise": (32, 10), "target": (32, 64, 64, 3)}),
)
