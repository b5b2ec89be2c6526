"""A small network makes a photograph two or three times as large, and bicubic interpolation is the one to beat.

    pip install -e '.[models]'
    python examples/super_resolution.py             # a few minutes
    python examples/super_resolution.py --factor 3

The network is FSRCNN (Dong et al., 2016) in miniature: convolutions at the small size, where they are cheap, and one
transposed convolution at the end, whose stride is the factor. It adds what bicubic interpolation misses.

The left of scikit-learn's china.jpg is the answer, and averaged in blocks of factor x factor pixels it is the question.
The network never sees the answer: it learns from flower.jpg, from the right of china.jpg, and from the question, whose
own averages are questions too.

Each colour channel is an image of its own. There is no layer library here: `jdeconv.conv2d_transpose` and arrays.
"""

import argparse
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from jdeconv import conv2d_transpose

Picture = NDArray[np.float32]  # [height, width, 3], from 0 to 1
Weights = dict[str, jax.Array]

WIDE, NARROW, LAYERS, LAST_KERNEL = 32, 12, 3, 9
PATCH, BATCH, LEARNING_RATE = 20, 24, 4e-3
STEPS, QUICK_STEPS = 3000, 250
SEAM = 366  # the column of china.jpg where the test ends and training begins


def initial(key: jax.Array) -> Weights:
    he = jax.nn.initializers.he_normal()
    shapes = {"see": (5, 5, 1, WIDE), "shrink": (1, 1, WIDE, NARROW), "widen": (1, 1, NARROW, WIDE)}
    shapes |= {f"map{i}": (3, 3, NARROW, NARROW) for i in range(LAYERS)}
    weights = {name: he(jax.random.fold_in(key, i), shape) for i, (name, shape) in enumerate(shapes.items())}
    weights |= {f"{name}_bias": jnp.zeros(shape[3]) for name, shape in shapes.items()}
    return weights | {"enlarge": jnp.zeros((LAST_KERNEL, LAST_KERNEL, 1, WIDE))}  # [height, width, out, in]


def enlarged(weights: Weights, small: jax.Array, factor: int) -> jax.Array:
    """Images `[n, height, width, 1]`, `factor` times as large."""

    def layer(x: jax.Array, name: str) -> jax.Array:
        y = jax.lax.conv_general_dilated(x, weights[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.gelu(y + weights[f"{name}_bias"])

    x = layer(layer(small - 0.5, "see"), "shrink")
    for i in range(LAYERS):
        x = x + layer(x, f"map{i}")
    n, height, width, _ = small.shape
    shape = (n, height * factor, width * factor, 1)
    missed = conv2d_transpose(layer(x, "widen"), weights["enlarge"], shape, strides=factor, padding="SAME")
    return jax.image.resize(small, shape, "bicubic") + missed


def downscaled(picture: Picture, factor: int) -> Picture:
    """The mean of each block of factor x factor pixels."""
    height, width, channels = picture.shape
    means: Picture = picture.reshape(height // factor, factor, width // factor, factor, channels).mean(axis=(1, 3))
    return means


def train(weights: Weights, pictures: list[Picture], factor: int, steps: int, random: np.random.Generator) -> Weights:
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))
    state = optimizer.init(weights)

    @jax.jit
    def train_step(
        weights: Weights, state: optax.OptState, small: jax.Array, large: jax.Array
    ) -> tuple[Weights, optax.OptState, jax.Array]:
        def loss(weights: Weights) -> jax.Array:
            return jnp.mean((enlarged(weights, small, factor) - large) ** 2)

        value, gradient = jax.value_and_grad(loss)(weights)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(weights, updates), state, value

    recent: list[jax.Array] = []
    progress = tqdm(range(1, steps + 1), desc="training", unit="step")
    for step in progress:
        large = np.stack([patch(pictures, PATCH * factor, random) for _ in range(BATCH)])
        small = np.stack([downscaled(picture, factor) for picture in large])
        weights, state, value = train_step(weights, state, jnp.asarray(small), jnp.asarray(large))
        recent = [*recent[-49:], value]
        if step % 50 == 0 or step == steps:
            progress.set_postfix(PSNR=f"{decibels(float(np.mean(recent))):.2f} dB")
    return weights


def patch(pictures: list[Picture], size: int, random: np.random.Generator) -> Picture:
    """A square of one colour, somewhere in one of the pictures, in one of its eight positions: `[size, size, 1]`."""
    picture = pictures[random.integers(len(pictures))]
    y, x = (random.integers(edge - size + 1) for edge in picture.shape[:2])
    square = np.rot90(picture[y : y + size, x : x + size, random.integers(3), None], int(random.integers(4)))
    return square[:, :: random.choice((-1, 1))]


def decibels(mean_square: float) -> float:
    """Peak signal-to-noise ratio of a signal whose peak is 1."""
    return -10 * math.log10(mean_square)


def psnr(picture: Picture, truth: Picture) -> float:
    return decibels(float(np.mean((picture - truth) ** 2)))


def load_photos() -> tuple[list[Picture], Picture]:
    """Photographs to train on, and the one to restore."""
    from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]  # slow to import

    china, flower = ((photo / 255).astype(np.float32) for photo in load_sample_images().images)
    return [china[:, SEAM:], flower], china[:426, :SEAM]  # 426 and 366 are multiples of 2 and 3


def save_picture(path: Path, truth: Picture, pictures: dict[str, Picture]) -> None:
    """The whole pictures, and below each a detail of it."""
    figure = Figure(figsize=(15, 7.6), dpi=120, layout="constrained")
    axes = figure.subplots(2, len(pictures) + 1, height_ratios=(truth.shape[0] / truth.shape[1], 1))
    for (name, picture), column in zip({**pictures, "truth": truth}.items(), axes.T, strict=True):
        column[0].set_title(name if picture is truth else f"{name}\n{psnr(picture, truth):.2f} dB PSNR")
        column[0].imshow(picture.clip(0, 1))
        column[1].imshow(picture.clip(0, 1)[120:220, 220:320], interpolation="nearest")
        for ax in column:
            ax.set(xticks=[], yticks=[])
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--factor", type=int, choices=(2, 3), default=2, help="how many times as large (default: %(default)s)")
    add("--steps", type=int, metavar="N", help=f"of training (default: {STEPS}; with --quick {QUICK_STEPS})")
    add("--seed", type=int, default=0, metavar="N", help="of weights and patches (default: %(default)s)")
    add("--quick", action="store_true", help="a few seconds of training, to see that it runs")
    add("--out", type=Path, default=Path("super_resolution.png"), help="the PNG to write (default: %(default)s)")
    args = parser.parse_args()

    factor: int = args.factor
    others, truth = load_photos()
    small = downscaled(truth, factor)
    steps = args.steps or (QUICK_STEPS if args.quick else STEPS)
    weights = initial(jax.random.key(args.seed))
    weights = train(weights, [*others, small], factor, steps, np.random.default_rng(args.seed))

    colours = jnp.moveaxis(jnp.asarray(small), 2, 0)[..., None]  # a batch of three
    network = jax.jit(enlarged, static_argnums=2)(weights, colours, factor)
    pictures = {
        "input": small.repeat(factor, axis=0).repeat(factor, axis=1),
        "bilinear": np.asarray(jax.image.resize(small, truth.shape, "bilinear")),
        "bicubic": np.asarray(jax.image.resize(small, truth.shape, "bicubic")),
        "network": np.asarray(jnp.moveaxis(network[..., 0], 0, 2)),
    }
    print(f"{small.shape[1]}x{small.shape[0]} pixels made {truth.shape[1]}x{truth.shape[0]}, PSNR against the photo:")
    for name, picture in pictures.items():
        print(f"  {name:8}  {psnr(picture, truth):.2f} dB")
    save_picture(args.out, truth, pictures)
    print(f"Picture: {args.out.resolve()}")


if __name__ == "__main__":
    main()
