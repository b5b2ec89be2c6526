"""A DCGAN that writes digits on demand, in Flax linen.

    pip install -e '.[models]'
    python examples/digits_dcgan.py                 # a few minutes

The generator enlarges 2 x 2 pixels to 8 x 8 by transposed convolutions, and the discriminator undoes that by strided
ones; both are told which digit it is. Trained on scikit-learn's digits. Whether it works is judged by a third party, a
classifier that knows only real digits: how many of the generated ones does it read as the digit that was asked for?
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import linen as nn
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from jdeconv.linen import ConvTranspose

Images = NDArray[np.float32]  # [n, 8, 8, 1], from -1 (paper) to 1 (ink)
Variables = Mapping[str, Any]

NOISE, BATCH = 32, 64
LEARNING_RATE, MOMENTUM = 1e-3, 0.5
STEPS, QUICK_STEPS = 3000, 300


class Generator(nn.Module):
    @nn.compact
    def __call__(self, noise: jax.Array, digits: jax.Array, train: bool) -> jax.Array:
        def normal(x: jax.Array) -> jax.Array:
            return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))

        x = jnp.concatenate([noise, jax.nn.one_hot(digits, 10)], axis=1)
        x = normal(nn.Dense(2 * 2 * 64)(x).reshape(-1, 2, 2, 64))
        x = normal(ConvTranspose(48, (4, 4), strides=(2, 2), padding="SAME")(x))  # 2 x 2 to 4 x 4
        x = normal(ConvTranspose(32, (4, 4), strides=(2, 2), padding="SAME")(x))  # to 8 x 8
        return jnp.tanh(nn.Conv(1, (3, 3))(x))


class Discriminator(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, digits: jax.Array) -> jax.Array:
        """How real each image looks, as log odds."""
        label = jnp.broadcast_to(jax.nn.one_hot(digits, 10)[:, None, None], (*images.shape[:3], 10))
        x = jnp.concatenate([images, label], axis=3)
        x = nn.leaky_relu(nn.Conv(32, (4, 4), strides=(2, 2))(x), 0.2)  # 8 x 8 to 4 x 4
        x = nn.leaky_relu(nn.Conv(64, (4, 4), strides=(2, 2))(x), 0.2)  # to 2 x 2
        return nn.Dense(1)(x.reshape(len(x), -1))[:, 0]


GENERATOR, DISCRIMINATOR = Generator(), Discriminator()


def generate(variables: Variables, key: jax.Array, digits: jax.Array) -> tuple[jax.Array, Variables]:
    """Images of these digits, and the running statistics of the batch normalisation after them."""
    noise = jax.random.normal(key, (len(digits), NOISE))
    return GENERATOR.apply(variables, noise, digits, train=True, mutable=["batch_stats"])


def mean_loss(log_odds: Any, real: float) -> jax.Array:
    return optax.sigmoid_binary_cross_entropy(log_odds, jnp.full_like(log_odds, real)).mean()


def train(images: Images, labels: NDArray[np.int64], steps: int, seed: int) -> Variables:
    """The trained generator's variables."""
    keys = jax.random.split(jax.random.key(seed), 3)
    generator = GENERATOR.init(keys[0], jnp.zeros((1, NOISE)), jnp.zeros(1, int), train=True)
    discriminator = DISCRIMINATOR.init(keys[1], images[:1], labels[:1])
    optimizer = optax.adam(LEARNING_RATE, b1=MOMENTUM)
    states = optimizer.init(generator["params"]), optimizer.init(discriminator)

    @jax.jit
    def train_step(generator: Any, discriminator: Any, states: Any, real: jax.Array, digits: jax.Array, key: jax.Array):  # type: ignore[no-untyped-def]
        """One step of each: the discriminator learns to tell, the generator to be taken for real."""

        def tell(discriminator: Any) -> jax.Array:
            fake, _ = generate(generator, key, digits)
            log_odds = (
                DISCRIMINATOR.apply(discriminator, real, digits),
                DISCRIMINATOR.apply(discriminator, fake, digits),
            )
            return mean_loss(log_odds[0], 0.9) + mean_loss(log_odds[1], 0.0)  # 0.9: it must not become too sure

        def deceive(weights: Any) -> tuple[jax.Array, Any]:
            fake, statistics = generate({**generator, "params": weights}, key, digits)
            return mean_loss(DISCRIMINATOR.apply(discriminator, fake, digits), 1.0), statistics

        told, slope = jax.value_and_grad(tell)(discriminator)
        updates, critic = optimizer.update(slope, states[1])
        discriminator = optax.apply_updates(discriminator, updates)
        (deceived, statistics), slope = jax.value_and_grad(deceive, has_aux=True)(generator["params"])
        updates, writer = optimizer.update(slope, states[0])
        generator = {"params": optax.apply_updates(generator["params"], updates), **statistics}
        return generator, discriminator, (writer, critic), told, deceived

    random = np.random.default_rng(seed)
    progress = tqdm(range(steps), desc="training", unit="step")
    for step in progress:
        chosen = random.integers(len(images), size=BATCH)
        generator, discriminator, states, told, deceived = train_step(
            generator, discriminator, states, images[chosen], labels[chosen], jax.random.fold_in(keys[2], step)
        )
        if step % 50 == 0 or step == steps - 1:
            progress.set_postfix(discriminator=f"{told:.2f}", generator=f"{deceived:.2f}")
    return generator


def load_digits() -> tuple[Images, NDArray[np.int64]]:
    from sklearn import datasets  # type: ignore[import-untyped]  # slow to import

    digits = datasets.load_digits()
    return (digits.images[..., None] / 8 - 1).astype(np.float32), digits.target


def read_as(real: Images, labels: NDArray[np.int64], images: Images) -> NDArray[np.int64]:
    """What a classifier that was trained on real digits takes each image for."""
    from sklearn.svm import SVC  # type: ignore[import-untyped]

    return SVC().fit(real.reshape(len(real), -1), labels).predict(images.reshape(len(images), -1))


def save_picture(path: Path, real: Images, labels: NDArray[np.int64], fake: Images, title: str) -> None:
    """A row for each digit: real ones on the left, generated ones on the right."""
    figure = Figure(figsize=(11, 6), dpi=120, layout="constrained")
    figure.suptitle(title)
    chosen = np.stack([real[labels == digit][:10] for digit in range(10)])
    for ax, images, name in zip(figure.subplots(1, 2), (chosen, fake), ("real", "generated"), strict=True):
        framed = np.pad(images[..., 0], ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-1)
        ax.imshow(framed.swapaxes(1, 2).reshape(100, 100), cmap="gray_r", vmin=-1, vmax=1)
        ax.set(title=name, xticks=[], yticks=[])
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--steps", type=int, metavar="N", help=f"of training (default: {STEPS}; with --quick {QUICK_STEPS})")
    add("--seed", type=int, default=0, metavar="N", help="of weights, batches and noise (default: %(default)s)")
    add("--quick", action="store_true", help="a few seconds of training, to see that it runs")
    add("--out", type=Path, default=Path("digits_dcgan.png"), help="the PNG to write (default: %(default)s)")
    args = parser.parse_args()

    images, labels = load_digits()
    generator = train(images, labels, args.steps or (QUICK_STEPS if args.quick else STEPS), args.seed)
    asked = np.repeat(np.arange(10), 100)
    noise = jax.random.normal(jax.random.key(args.seed + 1), (len(asked), NOISE))
    fake = np.asarray(GENERATOR.apply(generator, noise, asked, train=False))
    right = 100 * np.mean(read_as(images, labels, fake) == asked)
    verdict = f"a classifier reads {right:.1f} % of {len(asked)} generated digits as the one asked for (chance: 10 %)"
    print(verdict)
    save_picture(args.out, images, labels, fake.reshape(10, 100, 8, 8, 1)[:, :10], verdict)
    print(f"Picture: {args.out.resolve()}")


if __name__ == "__main__":
    main()
