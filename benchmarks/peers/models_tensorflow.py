"""Whole models in TensorFlow: `tf.function` without XLA, with the operations that Keras' layers call."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..work.cases import Array
from ..work.layers import EPSILON, LEAK, pads_of
from ..work.models import Given, Model
from .entry import Entry
from .tensorflow import convolution, tensorflow


class Layers:
    """Each layer takes the next of the weights, which are Flax's but for the kernels of `conv` and `up`."""

    def __init__(self, tf: Any, weights: Sequence[dict[str, Any]]) -> None:
        self.tf = tf
        self.weights = iter(weights)

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
        layer, rank = next(self.weights), len(x.shape) - 2
        pads = pads_of(kernel, dilation, padding, rank)
        y = convolution(x, layer["kernel"], (stride,) * rank, pads, (dilation,) * rank, groups)
        return self.tf.nn.bias_add(y, layer["bias"]) if bias else y

    def up(self, x: Any, features: int, kernel: int, stride: int, *, padding: int = 0, bias: bool = True) -> Any:
        layer, (batch, *sizes, _) = next(self.weights), x.shape
        shape = (batch, *((n - 1) * stride + kernel - 2 * padding for n in sizes), features)
        if padding and 2 * padding != kernel - stride:
            raise NotImplementedError("TensorFlow pads transposed convolutions by name")
        function = self.tf.nn.conv2d_transpose if len(sizes) == 2 else self.tf.nn.conv3d_transpose
        y = function(x, layer["kernel"], shape, stride, "SAME" if padding else "VALID")
        return self.tf.nn.bias_add(y, layer["bias"]) if bias else y

    def dense(self, x: Any, features: int) -> Any:
        layer = next(self.weights)
        return self.tf.tensordot(x, layer["kernel"], 1) + layer["bias"]

    def norm(self, x: Any, kind: str) -> Any:
        layer, tf = next(self.weights), self.tf
        if kind == "batch":
            image = x if len(x.shape) > 3 else x[:, None]
            layout = "NHWC" if len(image.shape) == 4 else "NDHWC"
            y = tf.compat.v1.nn.fused_batch_norm(
                image, layer["scale"], layer["bias"], epsilon=EPSILON[kind], data_format=layout
            )[0]
            return tf.reshape(y, x.shape)
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        return tf.nn.batch_normalization(x, mean, variance, layer["bias"], layer["scale"], EPSILON[kind])

    def scale(self, x: Any) -> Any:
        return x * next(self.weights)["scale"]

    def activate(self, x: Any, name: str) -> Any:
        return self.tf.nn.leaky_relu(x, LEAK) if name == "leaky_relu" else getattr(self.tf.nn, name)(x)

    def max_pool(self, x: Any, window: int, stride: int, padding: int = 0) -> Any:
        if not padding:
            return self.tf.nn.max_pool(x, window, stride, "VALID")
        inner = [[padding, padding]] * (len(x.shape) - 2)
        return self.tf.nn.max_pool2d(x, window, stride, [[0, 0], *inner, [0, 0]])

    def mean(self, x: Any) -> Any:
        return self.tf.reduce_mean(x, tuple(range(1, len(x.shape) - 1)))

    def flatten(self, x: Any) -> Any:
        return self.tf.reshape(x, (x.shape[0], -1))

    def image(self, x: Any, size: Sequence[int]) -> Any:
        return self.tf.reshape(x, (x.shape[0], *size, -1))

    def join(self, parts: Sequence[Any]) -> Any:
        return self.tf.concat(parts, -1)

    def batch(self, parts: Sequence[Any]) -> Any:
        return self.tf.concat(parts, 0)

    def sample(self, mean: Any, log_variance: Any, noise: Any) -> Any:
        return mean + self.tf.exp(log_variance / 2) * noise

    def squared_error(self, y: Any, target: Any) -> Any:
        return self.tf.reduce_mean(self.tf.math.squared_difference(y, target))

    def divergence(self, mean: Any, log_variance: Any) -> Any:
        return 0.5 * self.tf.reduce_mean(mean * mean + self.tf.exp(log_variance) - 1 - log_variance)


def model_entry(model: Model, given: Given, dtype: str, pass_: str) -> Entry:
    """The same step as JAX's, but that no statistics of batches are kept."""
    tf = tensorflow()
    inputs = [tf.constant(array) for array in given.inputs]
    weights = [
        {role: tf.Variable(_turned(array) if kind == "up" else array) for role, array in layer.items()}
        for kind, layer in zip(given.kinds, given.weights, strict=True)
    ]
    wanted = [layer[role] for layer in weights for role in sorted(layer)]

    # Without autograph, which would dress up the errors.
    @tf.function(jit_compile=False, autograph=False)  # type: ignore[untyped-decorator]
    def step() -> Any:
        with tf.GradientTape() as tape:
            loss = model.loss(Layers(tf, weights), *inputs)
        return loss, tape.gradient(loss, wanted)

    def results(found: Any) -> list[Array]:
        loss, gradients = found
        kinds = [kind for kind, layer in zip(given.kinds, weights, strict=True) for _ in layer]
        arrays = (np.asarray(gradient) for gradient in gradients)
        turned = (_turned(array) if kind == "up" else array for kind, array in zip(kinds, arrays, strict=True))
        return [np.asarray(loss), *turned]

    return Entry(step, results)


def _turned(array: Array) -> Array:
    """Flax's kernel of a transposed convolution made TensorFlow's, which is turned; its own inverse."""
    if array.ndim == 1:
        return array
    return np.flip(array, tuple(range(array.ndim - 2))).swapaxes(-1, -2)
