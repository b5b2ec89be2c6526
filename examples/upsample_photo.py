"""Upscale a photo two or three times by transposed convolution: with a bilinear kernel, and with a learned one.

    pip install -e '.[examples]'
    python examples/upsample_photo.py                                  # scikit-learn's sample photograph
    python examples/upsample_photo.py holiday.jpg --factor 3 --output holiday_x3.png

The photo is the truth. Its pixels, averaged in blocks of factor x factor, are the input, from which both kernels have
to restore it; the PNG shows input, results and errors side by side, with the PSNR of each against the truth.

Bilinear: one fixed tent kernel, depthwise: `conv2d_transpose` makes a group of each channel. Learned: one wider kernel,
trained from the bilinear one by gradient descent on patches of the photo one scale lower, where the input is the
answer and the input downscaled once more is the question. So training never sees the truth, and the gain is one that a
photo without a known answer gets too.
"""

import argparse
import functools
import math
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm  # type: ignore[import-untyped]

from jdeconv import conv2d_transpose

Picture = NDArray[np.float32]  # [height, width, 3], from 0 to 1

PATCH, BATCH = 16, 24  # a patch is one colour channel of 16 x 16 pixels, before upscaling
SMALLEST_PATCH = 8
LEARNING_RATE, DECAY_MEAN, DECAY_SQUARE = 0.01, 0.9, 0.99


def load_photo(path: Path | None, max_size: int) -> Image.Image:
    if path is None:
        from sklearn.datasets import load_sample_image  # type: ignore[import-untyped]  # slow to import

        photo = Image.fromarray(load_sample_image("china.jpg"))
    else:
        photo = ImageOps.exif_transpose(Image.open(path))
    if photo.mode.startswith("I"):  # 16 bits, which Pillow clips to 8 instead of scaling them
        photo = Image.fromarray((np.asarray(photo) / 257).clip(0, 255).astype(np.uint8))
    photo = photo.convert("RGBA")
    photo.thumbnail((max_size, max_size))
    return Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")


def downscale(picture: Picture, factor: int) -> Picture:
    """The mean of each block of factor x factor pixels, those that don't fill a block being left out."""
    height, width = (size // factor for size in picture.shape[:2])
    blocks = picture[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    means: Picture = blocks.mean(axis=(1, 3))
    return means


def bilinear_size(factor: int) -> int:
    """How many taps the tent has that aren't zero; even or odd as `factor` is, see `upscale`."""
    return 2 * factor - factor % 2


def bilinear_kernel(size: int, factor: int) -> NDArray[np.float32]:
    """A tent that falls to zero `factor` pixels from its centre, zero-padded: filter `[size, size, 1, 1]`."""
    tent = np.maximum(0, 1 - abs(np.arange(size) - (size - 1) / 2) / factor)
    return np.outer(tent, tent)[:, :, None, None].astype(np.float32)


def margin(size: int, factor: int) -> int:
    """How many input pixels beyond its own an output pixel depends on."""
    return -((factor - size) // (2 * factor))


def upscale(padded: jax.Array, kernel: jax.Array, factor: int) -> jax.Array:
    """Images `[n, height, width, channels]` that have a margin: without it, and `factor` times as large.

    With `size - factor` even, SAME puts the kernel's centre on the centre of the factor x factor pixels that replace an
    input pixel: that is where averaging took the pixel from.
    """
    n, height, width, channels = padded.shape
    depthwise = jnp.repeat(kernel, channels, axis=3)  # [size, size, 1, channels]: one output channel a group
    shape = (n, height * factor, width * factor, channels)
    whole = conv2d_transpose(padded, depthwise, shape, strides=factor, padding="SAME")
    cut = margin(kernel.shape[0], factor) * factor
    return whole[:, cut : shape[1] - cut, cut : shape[2] - cut]


def with_margin(picture: Picture, kernel_size: int, factor: int) -> Picture:
    """Zero-centred, and its outermost pixels repeated outwards: with nothing to add there, borders would be dark.

    Zero-centred, because in a bright picture the sum of the taps would drown whatever else there is to learn.
    """
    extra = margin(kernel_size, factor)
    return np.pad(picture - np.float32(0.5), ((extra, extra), (extra, extra), (0, 0)), mode="edge")


def enlarged(picture: Picture, kernel: jax.Array | NDArray[np.float32], factor: int) -> Picture:
    padded = with_margin(picture, kernel.shape[0], factor)
    return np.asarray(upscale(jnp.asarray(padded)[None], jnp.asarray(kernel), factor)[0] + 0.5).clip(0, 1)


def psnr(error: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio in dB, of errors in a signal whose peak is 1."""
    return decibels(float(np.mean(error**2)))


def decibels(mean_square: float) -> float:
    return -10 * math.log10(max(mean_square, 1e-10))


@functools.partial(jax.jit, static_argnames="factor")
def adam(
    state: tuple[jax.Array, ...], step: int, rate: float, small: jax.Array, large: jax.Array, factor: int
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    kernel, mean, square = state
    loss, slope = jax.value_and_grad(lambda kernel: jnp.mean((upscale(small, kernel, factor) - large) ** 2))(kernel)
    mean = DECAY_MEAN * mean + (1 - DECAY_MEAN) * slope
    square = DECAY_SQUARE * square + (1 - DECAY_SQUARE) * slope**2
    direction = mean / (1 - DECAY_MEAN**step) / (jnp.sqrt(square / (1 - DECAY_SQUARE**step)) + 1e-8)
    return (kernel - rate * direction, mean, square), loss


def learned_kernel(target: Picture, factor: int, size: int, steps: int, seed: int) -> jax.Array:
    """The kernel `[size, size, 1, 1]` that best restores `target` from its own downscaled version."""
    lower = downscale(target, factor)
    small, large = with_margin(lower, size, factor), target - 0.5
    patch = min(PATCH, *lower.shape[:2])
    window, edge = patch + 2 * margin(size, factor), patch * factor
    random = np.random.default_rng(seed)
    kernel = jnp.asarray(bilinear_kernel(size, factor))
    state = (kernel, jnp.zeros_like(kernel), jnp.zeros_like(kernel))
    losses: list[jax.Array] = []
    progress = tqdm(range(1, steps + 1), desc="learning", unit="step")
    for step in progress:
        corners = random.integers(0, (lower.shape[0] - patch + 1, lower.shape[1] - patch + 1, 3), (BATCH, 3))
        questions = np.stack([small[y : y + window, x : x + window, c, None] for y, x, c in corners])
        corners *= (factor, factor, 1)
        answers = np.stack([large[y : y + edge, x : x + edge, c, None] for y, x, c in corners])
        quarters = int(random.integers(4))  # turned, the few patches of a small photo count for four times as many
        questions, answers = (np.rot90(images, quarters, axes=(1, 2)) for images in (questions, answers))
        rate = LEARNING_RATE * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        state, loss = adam(state, step, rate, questions, answers, factor=factor)
        losses.append(loss)
        if step % 50 == 0 or step == steps:  # one batch says little: some patches are sky, some are leaves
            recent = float(np.mean(losses[-50:]))
            progress.set_postfix(loss=f"{recent:.5f}", PSNR=f"{decibels(recent):.2f} dB")
    return state[0]


def save_comparison(path: Path, truth: Picture, pictures: dict[str, Picture], factor: int) -> None:
    """A row of whole pictures and their errors, and a row of the detail in which the two results differ most."""
    errors = {name: abs(picture - truth).mean(axis=2) * 255 for name, picture in pictures.items()}
    height, width = (size // 6 for size in truth.shape[:2])
    difference = abs(pictures["learned"] - pictures["bilinear"])[: height * 6, : width * 6]
    blocks = difference.reshape(6, height, 6, width, -1).mean(axis=(1, 3, 4))
    row, column = np.unravel_index(blocks.argmax(), blocks.shape)
    top, left = int(row) * height, int(column) * width

    panel = 3.2  # inches
    aspect = min(max(truth.shape[0] / truth.shape[1], 0.3), 3)
    figure = Figure(figsize=(5 * panel + 0.8, 2 * panel * aspect + 0.9), dpi=150, layout="constrained")
    axes = figure.subplots(2, 5)
    figure.suptitle(f"Restored from {factor}x downscaling: input, two kernels, and what each got wrong")
    for i, (name, picture) in enumerate(pictures.items()):
        axes[0, i].set_title(f"{name}\n{psnr(picture - truth):.2f} dB PSNR")
        for ax in axes[:, i]:
            ax.imshow(picture, interpolation="nearest" if ax is axes[1, i] else "auto")
    brightest = max(float(np.percentile(errors["bilinear"], 99)), 1)
    for i, name in enumerate(("bilinear", "learned"), start=3):
        axes[0, i].set_title(f"error of {name}\n{errors[name].mean():.2f} of 255 on average")
        for ax in axes[:, i]:
            shown = ax.imshow(errors[name], cmap="inferno", vmin=0, vmax=brightest)
    figure.colorbar(shown, ax=axes, label="absolute error, of 255", extend="max", pad=0.01, aspect=40)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for ax in axes[0]:
        ax.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="cyan", linewidth=1.2))
    for ax in axes[1]:
        ax.set(xlim=(left - 0.5, left + width - 0.5), ylim=(top + height - 0.5, top - 0.5))
        ax.spines[:].set(color="cyan", linewidth=1.5)
    figure.savefig(path)


def at_least(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, {minimum} or more")
        return int(text)

    return parse


def arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    add = parser.add_argument
    add("image", type=Path, nargs="?", help="any picture that Pillow reads (default: scikit-learn's china.jpg)")
    add("--factor", type=int, choices=(2, 3), default=2, help="how many times as large (default: %(default)s)")
    add("--kernel-size", type=at_least(3), metavar="K", help="of the learned kernel, in pixels (default: 5 x factor)")
    add("--steps", type=at_least(1), default=800, metavar="N", help="of gradient descent (default: %(default)s)")
    add("--seed", type=at_least(0), default=0, metavar="N", help="of the choice of patches (default: %(default)s)")
    add("--max-size", type=at_least(1), default=640, help="shrink a longer side to this (default: %(default)s)")
    add("--output", type=Path, default=Path("upsampled.png"), help="the PNG to write (default: %(default)s)")
    args = parser.parse_args()

    args.kernel_size = args.kernel_size or 5 * args.factor
    smallest, parity = bilinear_size(args.factor), "odd" if args.factor % 2 else "even"
    if args.kernel_size < smallest or (args.kernel_size - args.factor) % 2:
        parser.error(f"--kernel-size {args.kernel_size}: factor {args.factor} takes {parity} sizes from {smallest}")
    if args.output.suffix.lower() != ".png":
        parser.error(f"--output {args.output}: expected a name that ends in .png")
    if args.output.is_dir() or not os.access(args.output.resolve().parent, os.W_OK):
        parser.error(f"--output {args.output}: can't be written; is there such a folder, and is it yours?")
    if args.image and args.output.resolve() == args.image.resolve():
        parser.error(f"--output {args.output}: that is the photo itself; choose another name")
    return args


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args = arguments(parser)
    factor: int = args.factor
    try:
        photo = load_photo(args.image, args.max_size)
    # Pillow raises a SyntaxError or a ValueError for some broken files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        parser.error(f"can't read {args.image}: {error}")
    needed = SMALLEST_PATCH * factor**2
    if min(photo.size) < needed:
        size = f"{photo.width}x{photo.height} pixels at --max-size {args.max_size}"
        parser.error(f"{size}: factor {factor} needs {needed}x{needed} or more")

    truth = np.asarray(photo, np.float32) / np.float32(255)
    small = downscale(truth, factor)
    truth = truth[: small.shape[0] * factor, : small.shape[1] * factor]
    learned = learned_kernel(small, factor, args.kernel_size, args.steps, args.seed)
    pictures = {
        "input (nearest)": small.repeat(factor, axis=0).repeat(factor, axis=1),
        "bilinear": enlarged(small, bilinear_kernel(bilinear_size(factor), factor), factor),
        "learned": enlarged(small, learned, factor),
    }
    sizes = [f"{picture.shape[1]}x{picture.shape[0]}" for picture in (small, truth)]
    print(f"{sizes[0]} pixels made {sizes[1]}, PSNR against the photo:")
    for name, picture in pictures.items():
        print(f"  {name:15}  {psnr(picture - truth):.2f} dB")
    try:
        save_comparison(args.output, truth, pictures, factor)
    except OSError as error:
        parser.error(f"can't write {args.output}: {error}")
    print(f"Side by side: {args.output.resolve()}")


if __name__ == "__main__":
    main()
