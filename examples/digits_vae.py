"""A convolutional variational autoencoder of handwritten digits, in Flax nnx.

    pip install -e '.[models]'
    python examples/digits_vae.py                   # about a minute
    python examples/digits_vae.py --latent 8        # sharper, but no longer a map that fits on paper

Encoder: two strided convolutions, 8 x 8 pixels to 2 x 2. Decoder: two transposed convolutions back. Between them each
digit is a point of a plane (with the default `--latent 2`), and noise of the size that the encoder asks for. Trained on
1500 of scikit-learn's digits; the PNG shows the others and what became of them, where they lie on that plane, and what
the decoder draws all over it.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import nnx
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from jdeconv.nnx import ConvTranspose

Images = NDArray[np.float32]  # [n, 8, 8, 1], from 0 (paper) to 1 (ink)

TRAINED_ON, BATCH, LEARNING_RATE = 1500, 128, 2e-3
STEPS, QUICK_STEPS = 3000, 150


class VAE(nnx.Module):
    def __init__(self, latent: int, rngs: nnx.Rngs) -> None:
        self.down1 = nnx.Conv(1, 32, (3, 3), strides=2, rngs=rngs)  # 8 x 8 to 4 x 4
        self.down2 = nnx.Conv(32, 64, (3, 3), strides=2, rngs=rngs)  # to 2 x 2
        self.to_latent = nnx.Linear(2 * 2 * 64, 2 * latent, rngs=rngs)
        self.from_latent = nnx.Linear(latent, 2 * 2 * 64, rngs=rngs)
        self.up1 = ConvTranspose(64, 32, (4, 4), strides=(2, 2), padding="SAME", rngs=rngs)  # 2 x 2 to 4 x 4
        self.up2 = ConvTranspose(32, 16, (4, 4), strides=(2, 2), padding="SAME", rngs=rngs)  # to 8 x 8
        self.to_ink = nnx.Conv(16, 1, (3, 3), rngs=rngs)

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and logarithm of the variance of each image's place, both `[n, latent]`."""
        hidden = nnx.gelu(self.down2(nnx.gelu(self.down1(images))))
        mean, log_variance = jnp.split(self.to_latent(hidden.reshape(len(images), -1)), 2, axis=-1)
        return mean, log_variance

    def decode(self, places: jax.Array) -> jax.Array:
        """The log odds of ink in each pixel."""
        hidden = nnx.gelu(self.from_latent(places)).reshape(-1, 2, 2, 64)
        return self.to_ink(nnx.gelu(self.up2(nnx.gelu(self.up1(hidden)))))


def loss(model: VAE, images: jax.Array, key: jax.Array) -> jax.Array:
    """Nats an image: ink told wrongly, and how much the place says (the negative evidence lower bound)."""
    mean, log_variance = model.encode(images)
    places = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
    wrong = optax.sigmoid_binary_cross_entropy(model.decode(places), images).sum(axis=(1, 2, 3))
    told = (jnp.exp(log_variance) + mean**2 - 1 - log_variance).sum(axis=1) / 2
    return jnp.mean(wrong + told)


@nnx.jit
def train_step(model: VAE, optimizer: "nnx.Optimizer[VAE]", images: jax.Array, key: jax.Array) -> jax.Array:
    value, gradient = nnx.value_and_grad(loss)(model, images, key)
    optimizer.update(model, gradient)
    return value


def load_digits() -> tuple[Images, NDArray[np.int64]]:
    from sklearn import datasets  # type: ignore[import-untyped]  # slow to import

    digits = datasets.load_digits()
    return (digits.images[..., None] / 16).astype(np.float32), digits.target


def train(model: VAE, images: Images, steps: int, seed: int) -> None:
    optimizer = nnx.Optimizer(model, optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps)), wrt=nnx.Param)
    random, key = np.random.default_rng(seed), jax.random.key(seed)
    progress = tqdm(range(steps), desc="training", unit="step")
    for step in progress:
        batch = jnp.asarray(images[random.integers(len(images), size=BATCH)])
        value = train_step(model, optimizer, batch, jax.random.fold_in(key, step))
        if step % 50 == 0 or step == steps - 1:
            progress.set_postfix(loss=f"{value:.2f} nats")


def tiled(images: Images, columns: int) -> NDArray[np.float32]:
    """One picture of many, row by row, with paper between them."""
    framed = np.pad(images[..., 0], ((0, 0), (1, 1), (1, 1)))
    return framed.reshape(-1, columns, 10, 10).swapaxes(1, 2).reshape(-1, columns * 10)


def save_picture(path: Path, model: VAE, images: Images, labels: NDArray[np.int64]) -> None:
    ink = jax.jit(lambda places: jax.nn.sigmoid(model.decode(places)))
    means = model.encode(jnp.asarray(images))[0]
    figure = Figure(figsize=(12, 7.9), dpi=120, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 5))

    strip, columns = figure.add_subplot(grid[0, :]), 25
    both = np.concatenate([images[:columns], np.asarray(ink(means[:columns]))])
    strip.imshow(tiled(both, columns), cmap="gray_r", vmin=0, vmax=1)
    strip.set_title("held-out digits, and what comes back")
    strip.set(xticks=[], yticks=[])

    ax = figure.add_subplot(grid[1, 0])
    for digit in range(10):
        chosen = means[labels == digit]
        ax.scatter(chosen[:, 0], chosen[:, 1], s=14, color=f"C{digit}", label=str(digit))
    ax.set_title("where the encoder puts held-out digits" + (", first two axes" if means.shape[1] > 2 else ""))
    ax.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    ax.legend(ncols=10, loc="lower center", handletextpad=0.1, columnspacing=0.8, fontsize=8)

    ax, points = figure.add_subplot(grid[1, 1]), 15
    across, up = np.meshgrid(np.linspace(-2.8, 2.8, points), np.linspace(2.8, -2.8, points))
    places = np.zeros((points**2, means.shape[1]), np.float32)
    places[:, 0], places[:, 1] = across.ravel(), up.ravel()
    drawn = tiled(np.asarray(ink(jnp.asarray(places))), points)
    ax.imshow(drawn, cmap="gray_r", vmin=0, vmax=1, extent=(-3, 3, -3, 3))
    ax.set_title("what the decoder draws there")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--latent", type=int, default=2, metavar="N", help="dimensions of a digit's place (default: %(default)s)")
    add("--steps", type=int, metavar="N", help=f"of training (default: {STEPS}; with --quick {QUICK_STEPS})")
    add("--seed", type=int, default=0, metavar="N", help="of weights, batches and noise (default: %(default)s)")
    add("--quick", action="store_true", help="a few seconds of training, to see that it runs")
    add("--out", type=Path, default=Path("digits_vae.png"), help="the PNG to write (default: %(default)s)")
    args = parser.parse_args()

    images, labels = load_digits()
    held_out = images[TRAINED_ON:]
    model = VAE(args.latent, nnx.Rngs(args.seed))
    held_out_loss = nnx.jit(loss)
    before = held_out_loss(model, jnp.asarray(held_out), jax.random.key(0))
    train(model, images[:TRAINED_ON], args.steps or (QUICK_STEPS if args.quick else STEPS), args.seed)
    after = held_out_loss(model, jnp.asarray(held_out), jax.random.key(0))
    print(f"loss on {len(held_out)} held-out digits: {before:.2f} nats before training, {after:.2f} after")
    save_picture(args.out, model, held_out, labels[TRAINED_ON:])
    print(f"Picture: {args.out.resolve()}")


if __name__ == "__main__":
    main()
