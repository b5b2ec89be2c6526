"""A U-Net in Equinox that takes the noise out of a photograph.

    pip install -e '.[models]'
    python examples/denoise_unet.py                 # a few minutes
    python examples/denoise_unet.py --noise 0.2

Trained on patches of the right of scikit-learn's china.jpg and of flower.jpg, with fresh noise each time; then it gets
the left of china.jpg, which it never saw. The PNG compares it with the best that a Gaussian blur could do, even one
whose width is chosen by looking at the answer.
"""

import argparse
import math
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]
from tqdm import tqdm  # type: ignore[import-untyped]

from jdeconv.equinox import ConvTranspose2d

Picture = NDArray[np.float32]  # [3, height, width], from 0 to 1: Equinox has channels first

CHANNELS, PATCH, BATCH, LEARNING_RATE = 16, 48, 8, 3e-3
STEPS, QUICK_STEPS = 1500, 130
SEAM = 368  # the column of china.jpg where the test ends and training begins


def convolution(inputs: int, outputs: int, key: jax.Array) -> eqx.nn.Conv2d:
    """3 x 3; Equinox's initial weights are too small for signals to survive a dozen of them with ReLU: He's are not."""
    layer = eqx.nn.Conv2d(inputs, outputs, 3, padding=1, key=key)
    return eqx.tree_at(lambda layer: layer.weight, layer, layer.weight * math.sqrt(6))


class Pair(eqx.Module):
    """Two 3 x 3 convolutions that keep the size."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d

    def __init__(self, inputs: int, outputs: int, key: jax.Array) -> None:
        one, two = jax.random.split(key)
        self.first, self.second = convolution(inputs, outputs, one), convolution(outputs, outputs, two)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.second(jax.nn.relu(self.first(x))))


class UNet(eqx.Module):
    """Down to a quarter of the size and back up; on each level what came down joins what comes up."""

    down: list[Pair]
    bottom: Pair
    enlarge: list[ConvTranspose2d]
    up: list[Pair]
    to_noise: eqx.nn.Conv2d

    def __init__(self, channels: int, key: jax.Array) -> None:
        c, keys = channels, jax.random.split(key, 8)
        self.down = [Pair(3, c, keys[0]), Pair(c, 2 * c, keys[1])]
        self.bottom = Pair(2 * c, 4 * c, keys[2])
        self.enlarge = [
            ConvTranspose2d(4 * c, 2 * c, 4, stride=2, padding=1, key=keys[3]),
            ConvTranspose2d(2 * c, c, 4, stride=2, padding=1, key=keys[4]),
        ]
        self.up = [Pair(4 * c, 2 * c, keys[5]), Pair(2 * c, c, keys[6])]
        self.to_noise = jax.tree.map(jnp.zeros_like, eqx.nn.Conv2d(c, 3, 1, key=keys[7]))  # none, to begin with

    def __call__(self, noisy: jax.Array) -> jax.Array:
        """The clean picture, `[3, height, width]` as the noisy one; height and width are multiples of 4."""
        x, kept = noisy - 0.5, []
        for pair in self.down:
            x = pair(x)
            kept.append(x)
            x = halved(x)
        x = self.bottom(x)
        for enlarge, pair in zip(self.enlarge, self.up, strict=True):
            x = pair(jnp.concatenate([enlarge(x), kept.pop()]))
        return noisy - self.to_noise(x)


def halved(x: jax.Array) -> jax.Array:
    """The mean of each 2 x 2 pixels."""
    channels, height, width = x.shape
    return x.reshape(channels, height // 2, 2, width // 2, 2).mean(axis=(2, 4))


def loss(model: UNet, noisy: jax.Array, clean: jax.Array) -> jax.Array:
    return jnp.mean((jax.vmap(model)(noisy) - clean) ** 2)


def train(model: UNet, pictures: list[Picture], noise: float, steps: int, random: np.random.Generator) -> UNet:
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))
    state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def train_step(
        model: UNet, state: optax.OptState, noisy: jax.Array, clean: jax.Array
    ) -> tuple[UNet, optax.OptState, jax.Array]:
        value, gradient = eqx.filter_value_and_grad(loss)(model, noisy, clean)
        updates, state = optimizer.update(gradient, state)
        return eqx.apply_updates(model, updates), state, value

    recent: list[jax.Array] = []
    progress = tqdm(range(1, steps + 1), desc="training", unit="step")
    for step in progress:
        clean = np.stack([patch(pictures, random) for _ in range(BATCH)])
        noisy = clean + noise * random.standard_normal(clean.shape, np.float32)
        model, state, value = train_step(model, state, jnp.asarray(noisy), jnp.asarray(clean))
        recent = [*recent[-49:], value]
        if step % 50 == 0 or step == steps:
            progress.set_postfix(PSNR=f"{decibels(float(np.mean(recent))):.2f} dB")
    return model


def patch(pictures: list[Picture], random: np.random.Generator) -> Picture:
    """A square somewhere in one of the pictures, perhaps mirrored, perhaps with the colours exchanged."""
    picture = pictures[random.integers(len(pictures))]
    y, x = (random.integers(size - PATCH + 1) for size in picture.shape[1:])
    return picture[random.permutation(3), y : y + PATCH, x : x + PATCH][:, :, :: random.choice((-1, 1))]


def decibels(mean_square: float) -> float:
    """Peak signal-to-noise ratio of a signal whose peak is 1."""
    return -10 * math.log10(mean_square)


def psnr(picture: Picture, truth: Picture) -> float:
    return decibels(float(np.mean((picture - truth) ** 2)))


def best_blur(noisy: Picture, truth: Picture) -> Picture:
    blurred = [gaussian_filter(noisy, (0, sigma, sigma)) for sigma in np.arange(0.3, 3, 0.1)]
    return max(blurred, key=lambda picture: psnr(picture, truth))


def load_photos() -> tuple[list[Picture], Picture]:
    """What to train on, and what to be tested on."""
    from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]  # slow to import

    china, flower = ((photo.transpose(2, 0, 1) / 255).astype(np.float32) for photo in load_sample_images().images)
    return [china[:, :, SEAM:], flower], china[:, :424, :SEAM]  # 424 and 368 are multiples of 4


def save_picture(path: Path, truth: Picture, pictures: dict[str, Picture]) -> None:
    """The whole pictures, and below each a detail of it."""
    figure = Figure(figsize=(14, 8), dpi=120, layout="constrained")
    axes = figure.subplots(2, 4, height_ratios=(424 / 368, 1))
    for (name, picture), column in zip({**pictures, "truth": truth}.items(), axes.T, strict=True):
        quality = "" if picture is truth else f"\n{psnr(picture, truth):.2f} dB PSNR"
        column[0].set_title(name + quality)
        shown = picture.clip(0, 1).transpose(1, 2, 0)
        column[0].imshow(shown)
        column[1].imshow(shown[60:180, 220:340], interpolation="nearest")
        for ax in column:
            ax.set(xticks=[], yticks=[])
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--noise", type=float, default=0.1, help="standard deviation, where white is 1 (default: %(default)s)")
    add("--steps", type=int, metavar="N", help=f"of training (default: {STEPS}; with --quick {QUICK_STEPS})")
    add("--seed", type=int, default=0, metavar="N", help="of weights, patches and noise (default: %(default)s)")
    add("--quick", action="store_true", help="a few seconds of training, to see that it runs")
    add("--out", type=Path, default=Path("denoise_unet.png"), help="the PNG to write (default: %(default)s)")
    args = parser.parse_args()

    trained_on, truth = load_photos()
    random = np.random.default_rng(args.seed)
    noisy = truth + args.noise * random.standard_normal(truth.shape, np.float32)
    model = UNet(CHANNELS, jax.random.key(args.seed))
    model = train(model, trained_on, args.noise, args.steps or (QUICK_STEPS if args.quick else STEPS), random)
    pictures = {
        "noisy": noisy,
        "best Gaussian blur": best_blur(noisy, truth),
        "U-Net": np.asarray(eqx.filter_jit(model)(jnp.asarray(noisy))),
    }
    print("PSNR on the part of the photograph that training never saw:")
    for name, picture in pictures.items():
        print(f"  {name:18}  {psnr(picture, truth):.2f} dB")
    save_picture(args.out, truth, pictures)
    print(f"Picture: {args.out.resolve()}")


if __name__ == "__main__":
    main()
