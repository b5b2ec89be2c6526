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
import time
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
        photo = Image.fromarray((np.asarray(photo) // 257).astype(np.uint8))
    opaque = Image.new("RGBA", photo.size, "white")
    opaque.alpha_composite(photo.convert("RGBA"))
    opaque.thumbnail((max_size, max_size))
    return opaque.convert("RGB")


def downscale(picture: Picture, factor: int) -> Picture:
    """The mean of each block of factor x factor pixels, those that don't fill a block being left out."""
    height, width = (size // factor for size in picture.shape[:2])
    blocks = picture[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    return blocks.mean(axis=(1, 3))


def bilinear_kernel(size: int, factor: int) -> NDArray[np.float32]:
    """A tent that falls to zero `factor` pixels from its centre, zero-padded: filter `[size, size, 1, 1]`."""
    tent = np.maximum(0, 1 - abs(np.arange(size) - (size - 1) / 2) / factor)
    return np.outer(tent, tent)[:, :, None, None].astype(np.float32)


def margin(size: int, factor: int) -> int:
    """How many input pixels beyond its own an output pixel depends on."""
    return -((factor - size) // (2 * factor))


def upscale(padded: jax.Array, kernel: jax.Array, factor: int) -> jax.Array:
    """Images `[n, height, width, channels]` that have a margin, without it and `factor` times as large.

    With `size - factor` even, SAME puts the kernel's centre on the centre of the factor x factor pixels that replace an
    input pixel: that is where averaging took the pixel from.
    """
    n, height, width, channels = padded.shape
    depthwise = jnp.repeat(kernel, channels, axis=3)  # [size, size, 1, channels]: one output channel a group
    shape = (n, height * factor, width * factor, channels)
    whole = conv2d_transpose(padded, depthwise, shape, strides=factor, padding="SAME")
    cut = margin(kernel.shape[0], factor) * factor  # beyond the borders there is nothing to add, so they are too dark
    return whole[:, cut : shape[1] - cut, cut : shape[2] - cut]


def with_margin(picture: Picture, kernel_size: int, factor: int) -> Picture:
    """The picture, its outermost pixels repeated outwards, as zero-centred values."""
    extra = margin(kernel_size, factor)
    # Around zero, the taps' sum, which matters most to a bright picture, no longer drowns what else there is to learn.
    return np.pad(picture - 0.5, ((extra, extra), (extra, extra), (0, 0)), mode="edge")


def enlarged(picture: Picture, kernel: jax.Array | NDArray[np.float32], factor: int) -> Picture:
    padded = with_margin(picture, kernel.shape[0], factor)
    return np.asarray(upscale(jnp.asarray(padded)[None], jnp.asarray(kernel), factor)[0] + 0.5).clip(0, 1)


def psnr(error: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio in dB, of errors in a signal whose peak is 1."""
    return float(-10 * np.log10(max(np.mean(error**2), 1e-10)))


@functools.partial(jax.jit, static_argnames="factor")
def adam(
    state: tuple[jax.Array, ...], step: jax.Array, rate: jax.Array, small: jax.Array, large: jax.Array, factor: int
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
    window = patch + 2 * margin(size, factor)
    random = np.random.default_rng(seed)
    kernel = jnp.asarray(bilinear_kernel(size, factor))
    state = (kernel, jnp.zeros_like(kernel), jnp.zeros_like(kernel))
    progress = tqdm(range(1, steps + 1), desc="learning", unit="step")
    for step in progress:
        corners = random.integers(0, (lower.shape[0] - patch + 1, lower.shape[1] - patch + 1, 3), (BATCH, 3))
        questions = np.stack([small[y : y + window, x : x + window, c, None] for y, x, c in corners])
        answers = np.stack(
            [large[y : y + patch * factor, x : x + patch * factor, c, None] for y, x, c in corners * (factor, factor, 1)]
        )
        quarters = int(random.integers(4))  # turned, the few patches of a small photo count for four times as many
        questions, answers = (np.rot90(images, quarters, axes=(1, 2)) for images in (questions, answers))
        rate = LEARNING_RATE * (0.5 + 0.5 * np.cos(np.pi * step / steps))
        state, loss = adam(state, step, rate, questions, answers, factor=factor)
        if step % 20 == 0 or step == steps:
            progress.set_postfix(loss=f"{loss:.5f}", PSNR=f"{-10 * np.log10(max(loss, 1e-10)):.2f} dB")
    return state[0]
