"""Take a decoder's weights from Keras and TensorFlow to Flax, by way of three kinds of files: the same pictures.

    pip install -e '.[examples,flax]' tensorflow
    python examples/from_keras.py            # half a minute
    python examples/from_keras.py --quick    # a few seconds, and blurred digits

Keras learns to draw scikit-learn's handwritten digits from 16 numbers each (their principal components), and saves what
it learned as `.keras`, as `.h5` and as a TensorFlow SavedModel. Each is read by its own library;
`jdeconv.convert.tree` puts the values into a Flax linen model, and all draw the same digits. The PNG shows them under
the originals.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras  # type: ignore[import-untyped]
import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]
from _digits import CODE, digits_and_codes, save_comparison

from jdeconv import convert

WIDTH = 32
EPSILON = 1e-3  # of batch norms: Keras's default, not Flax's; no file of weights says it


def keras_decoder() -> Any:
    """From `[n, CODE]` to `[n, 8, 8, 1]`: 1, 2, 4, 8 pixels."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((CODE,)),
            layers.Reshape((1, 1, CODE)),
            layers.Conv2DTranspose(4 * WIDTH, 2, use_bias=False, name="up1"),
            layers.BatchNormalization(epsilon=EPSILON, name="norm1"),
            layers.ReLU(),
            layers.Conv2DTranspose(WIDTH, 4, 2, "same", use_bias=False, name="up2"),
            layers.BatchNormalization(epsilon=EPSILON, name="norm2"),
            layers.ReLU(),
            layers.Conv2DTranspose(1, 4, 2, "same", activation="sigmoid", name="up3"),
        ]
    )


class Decoder(nn.Module):
    """The same; `transpose_kernel` is how Keras and TensorFlow keep kernels."""

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        def up(channels: int, size: int, stride: int, **options: Any) -> nn.ConvTranspose:
            return nn.ConvTranspose(channels, (size, size), (stride, stride), transpose_kernel=True, **options)

        def norm(name: str) -> nn.BatchNorm:
            return nn.BatchNorm(use_running_average=True, epsilon=EPSILON, name=name)

        y = up(4 * WIDTH, 2, 1, padding="VALID", use_bias=False, name="up1")(codes[:, None, None])
        y = up(WIDTH, 4, 2, use_bias=False, name="up2")(nn.relu(norm("norm1")(y)))
        return nn.sigmoid(up(1, 4, 2, name="up3")(nn.relu(norm("norm2")(y))))


def saved_and_read(model: Any, folder: Path) -> dict[str, tuple[str, Any]]:
    """The weights of `model` by way of each kind of file: whose naming they follow, and what holds them."""
    read: dict[str, tuple[str, Any]] = {}
    for kind in ("keras", "h5"):
        path = folder / f"decoder.{kind}"
        model.save(path)
        read[f".{kind}"] = ("keras", {v.path: v for v in keras.saving.load_model(path, compile=False).weights})
    model.export(folder / "saved", verbose=False)
    read["SavedModel"] = ("tf", tf.saved_model.load(folder / "saved"))
    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--epochs", type=int, default=20, help="of Keras's training (default: %(default)s)")
    add("--quick", action="store_true", help="one epoch")
    add("--folder", type=Path, help="where to keep the saved models (default: nowhere)")
    add("--out", type=Path, default=Path("from_keras.png"), help="the PNG to write (default: %(default)s)")
    args = parser.parse_args()

    pictures, codes = digits_and_codes()
    keras.utils.set_random_seed(0)
    model = keras_decoder()
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    model.fit(codes, pictures[..., None], batch_size=64, epochs=1 if args.quick else args.epochs)

    decoder = Decoder()
    like = jax.eval_shape(decoder.init, jax.random.key(0), codes[:1])
    rows = {"digit": pictures, "Keras": np.asarray(model(codes[:100]))[..., 0]}
    with tempfile.TemporaryDirectory() as folder:
        files = saved_and_read(model, args.folder or Path(folder))
    for name, (source, weights) in files.items():
        variables = convert.tree(weights, like, source=source, target="flax_transposed", transposed=True)
        ours = np.asarray(decoder.apply(variables, jnp.asarray(codes[:100])))[..., 0]
        rows[f"Flax from\n{name}"] = ours
        difference = abs(ours - rows["Keras"]).max()
        print(f"{name}: largest difference between the pictures, white being 1: {difference:.1e}")
    save_comparison(args.out, rows)
    print(f"Side by side: {args.out.resolve()}")


if __name__ == "__main__":
    main()
