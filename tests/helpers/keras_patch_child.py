"""A Keras network on JAX with and without jdeconv.patch, in a process of its own, as Keras reads its backend once.

Prints the convolutions in its program, whether all types are equal, and the largest error of its outputs and gradients,
each relative to its largest number.
"""

import json

import jax
import keras
import numpy as np

import jdeconv


def network():
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((12, 8, 3)),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
            layers.SeparableConv2D(8, 3, padding="same"),
            layers.Conv2D(8, 3, groups=4, padding="same"),
            layers.Conv2DTranspose(4, 4, strides=2, padding="same"),
            layers.Conv2D(4, 3, dilation_rate=2),
            layers.Reshape((-1, 4)),
            layers.Conv1D(4, 3, padding="causal", dilation_rate=2),
        ]
    )


def main():
    keras.utils.set_random_seed(0)
    model, x = network(), np.random.default_rng(0).standard_normal((2, 12, 8, 3)).astype(np.float32)
    weights, rest = (
        [variable.value for variable in part] for part in (model.trainable_variables, model.non_trainable_variables)
    )

    def loss(weights, x):
        y, updated = model.stateless_call(weights, rest, x, training=True)
        return (y**2).sum(), (y, updated)

    def step(weights, x):
        return jax.grad(loss, (0, 1), has_aux=True)(weights, x)

    def convolutions():
        text = str(jax.make_jaxpr(lambda *operands: loss(*operands))(weights, x))
        return text.count("transposed_convolution["), text.count("conv_general_dilated[")

    def run():
        return jax.tree.leaves(jax.jit(lambda *operands: step(*operands))(weights, x))

    counts = {"plain": convolutions()}
    wanted = run()
    with jdeconv.patch():
        counts["patched"], found = convolutions(), run()
    with jdeconv.patch(only="transposed"):
        counts["transposed"] = convolutions()
    pairs = [*zip(found, wanted, strict=True)]
    error = max(float(abs(got - want).max() / max(abs(want).max(), 1e-3)) for got, want in pairs)
    equal = all((got.shape, got.dtype) == (want.shape, want.dtype) for got, want in pairs)
    print(json.dumps({"convolutions": counts, "types equal": equal, "largest error": error}))


if __name__ == "__main__":
    main()
