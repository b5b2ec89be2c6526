"""A Flax model is trained twice, as it is and under `jdeconv.patch()`: the same losses, by two clocks.

    pip install -e '.[models]'
    python examples/train_unedited.py               # about two minutes

The model takes noise out of photographs. It is NAFNet (Chen et al., 2022) in miniature, in Flax linen's own style: a
U-Net of blocks with 1 x 1 and depthwise 3 x 3 convolutions, made smaller by strided convolutions and larger by
transposed ones. It knows nothing of jdeconv. Both trainings start from the same weights and see the same patches of the
right of scikit-learn's china.jpg and of flower.jpg. Then both networks get the left of china.jpg, which they never saw.

The PNG shows both losses against steps and against seconds, and what the networks make of the photograph. The clocks
start before the first step, so they count tracing and compiling, and the making of the patches too.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import linen as nn
from flax.training.train_state import TrainState
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

import jdeconv

Pictures = NDArray[np.float32]  # [..., height, width, 3], from 0 to 1

WIDTH, PATCH, BATCH, NOISE, LEARNING_RATE = 16, 48, 8, 0.1, 2e-3
LEVELS, QUICK_LEVELS = 2, 1
STEPS, QUICK_STEPS, RECENT = 250, 16, 20
SEAM = 368  # the column of china.jpg where the test ends and training begins


class Block(nn.Module):
    """NAFNet's block: space is mixed by a depthwise convolution, channels by 1 x 1 ones, gates are products."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        y = nn.Conv(2 * c, (1, 1))(nn.LayerNorm()(x))
        y = gated(nn.Conv(2 * c, (3, 3), feature_group_count=2 * c)(y))
        y = y * nn.Dense(c)(y.mean(axis=(1, 2), keepdims=True))
        x = x + self.scale("first", c) * nn.Conv(c, (1, 1))(y)
        y = gated(nn.Conv(2 * c, (1, 1))(nn.LayerNorm()(x)))
        return x + self.scale("second", c) * nn.Conv(c, (1, 1))(y)

    def scale(self, name: str, channels: int) -> jax.Array:
        return self.param(name, nn.initializers.zeros, (channels,))


class NAFNet(nn.Module):
    """Noisy images `[n, height, width, 3]` to clean ones; height and width are multiples of 2 ** levels."""

    levels: int

    @nn.compact
    def __call__(self, noisy: jax.Array) -> jax.Array:
        x, kept = nn.Conv(WIDTH, (3, 3))(noisy - 0.5), []
        for _ in range(self.levels):
            x = Block()(x)
            kept.append(x)
            x = nn.Conv(2 * x.shape[-1], (2, 2), strides=(2, 2))(x)
        x = Block()(x)
        while kept:
            x = nn.ConvTranspose(x.shape[-1] // 2, (2, 2), strides=(2, 2))(x)
            x = Block()(x + kept.pop())
        return noisy - nn.Conv(3, (3, 3), kernel_init=nn.initializers.zeros)(x)  # the noise: none, to begin with


def gated(x: jax.Array) -> jax.Array:
    one, other = jnp.split(x, 2, axis=-1)
    return one * other


@jax.jit
def train_step(state: TrainState, noisy: jax.Array, clean: jax.Array) -> tuple[TrainState, jax.Array]:
    def loss(params: Any) -> jax.Array:
        return jnp.mean((state.apply_fn(params, noisy) - clean) ** 2)

    value, gradient = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=gradient), value


class Run(NamedTuple):
    """A training: the loss of each step, the seconds from the start to its end, and the photograph without noise."""

    losses: list[float]
    seconds: list[float]
    cleaned: Pictures


def initial(levels: int, steps: int, seed: int) -> TrainState:
    model = NAFNet(levels)
    key = jax.random.key(seed, impl="rbg")  # which compiles in half the time of the default
    params = jax.jit(model.init)(key, jnp.zeros((1, PATCH, PATCH, 3)))
    optimizer = optax.adamw(optax.cosine_decay_schedule(LEARNING_RATE, steps))
    return TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)


def train(state: TrainState, pictures: list[Pictures], noisy: Pictures, steps: int, seed: int, name: str) -> Run:
    losses: list[float] = []
    seconds: list[float] = []
    random, start = np.random.default_rng(seed), time.perf_counter()
    progress = tqdm(range(steps), desc=name, unit="step")
    for _ in progress:
        clean = np.stack([patch(pictures, random) for _ in range(BATCH)])
        state, value = train_step(state, with_noise(clean, random), clean)
        losses.append(float(value))
        seconds.append(time.perf_counter() - start)
        progress.set_postfix(PSNR=f"{decibels(losses[-RECENT:]):.2f} dB")
    return Run(losses, seconds, np.asarray(jax.jit(state.apply_fn)(state.params, noisy[None])[0]))


def patch(pictures: list[Pictures], random: np.random.Generator) -> Pictures:
    """A square somewhere in one of the pictures, perhaps mirrored, perhaps with the colours exchanged."""
    picture = pictures[random.integers(len(pictures))]
    y, x = (random.integers(size - PATCH + 1) for size in picture.shape[:2])
    return picture[y : y + PATCH, x : x + PATCH, random.permutation(3)][:, :: random.choice((-1, 1))]


def with_noise(clean: Pictures, random: np.random.Generator) -> Pictures:
    return clean + np.float32(NOISE) * random.standard_normal(clean.shape, np.float32)


def decibels(mean_squares: Any) -> float:
    """Peak signal-to-noise ratio of errors in a signal whose peak is 1."""
    return -10 * math.log10(np.mean(mean_squares))


def load_photos() -> tuple[list[Pictures], Pictures]:
    """What to train on, and what to be tested on."""
    from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]  # slow to import

    china, flower = ((photo / 255).astype(np.float32) for photo in load_sample_images().images)
    return [china[:, SEAM:], flower], china[:424, :SEAM]  # 424 and 368 are multiples of 4


def save_picture(path: Path, runs: dict[str, Run], pictures: dict[str, Pictures], truth: Pictures) -> None:
    """The losses by step, their means over recent steps by the clock, and what became of the photograph."""
    figure = Figure(figsize=(12, 8), dpi=120, layout="constrained")
    axes = figure.subplot_mosaic([["step", "step", "clock", "clock"], list(pictures)], height_ratios=(3, 4))
    axes["clock"].sharey(axes["step"])
    for (name, run), (width, alpha) in zip(runs.items(), ((4, 0.4), (1.2, 1)), strict=True):
        axes["step"].plot(range(1, len(run.losses) + 1), run.losses, label=name, linewidth=width, alpha=alpha)
        means = [np.mean(run.losses[max(0, end - RECENT) : end]) for end in range(1, len(run.losses) + 1)]
        axes["clock"].plot(run.seconds, means, label=f"{name}: {run.seconds[-1]:.0f} s", linewidth=width, alpha=alpha)
    axes["step"].set(title="loss of each step", yscale="log", xlabel="step", ylabel="mean square error")
    axes["clock"].set(title=f"mean loss of {RECENT} steps", xlabel="seconds, compiling included", xlim=(0, None))
    for name in ("step", "clock"):
        axes[name].legend()
    for name, picture in pictures.items():
        axes[name].imshow(picture.clip(0, 1)[:, 120:])
        axes[name].set_title(name if picture is truth else f"{name}\n{decibels((picture - truth) ** 2):.2f} dB PSNR")
        axes[name].set(xticks=[], yticks=[])
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--steps", type=int, metavar="N", help=f"of each training (default: {STEPS}; with --quick {QUICK_STEPS})")
    add("--seed", type=int, default=0, metavar="N", help="of weights, patches and noise (default: %(default)s)")
    add("--quick", action="store_true", help="a smaller network and little training, to see that it runs")
    add("--out", type=Path, default=Path("train_unedited.png"), help="the PNG to write (default: %(default)s)")
    args = parser.parse_args()

    trained_on, truth = load_photos()
    noisy = with_noise(truth, np.random.default_rng(args.seed))
    steps = args.steps or (QUICK_STEPS if args.quick else STEPS)
    state = initial(QUICK_LEVELS if args.quick else LEVELS, steps, args.seed)
    runs = {"plain": train(state, trained_on, noisy, steps, args.seed, "plain")}
    with jdeconv.patch():
        runs["patched"] = train(state, trained_on, noisy, steps, args.seed, "patched")

    for name, run in runs.items():
        later = 1000 * np.median(np.diff(run.seconds))
        print(f"{name}: loss {run.losses[0]:.5f} in the first step, {run.losses[-1]:.5f} in the last")
        print(f"{name}: first step with compiling {run.seconds[0]:.1f} s, later ones {later:.0f} ms each")
        print(f"{name}: {run.seconds[-1]:.1f} s in all")
    plain, patched = (np.asarray(run.losses) for run in runs.values())
    print(f"losses of the same step differ by {np.max(abs(patched / plain - 1)):.1e} of them at most")
    apart = np.max(abs(runs["patched"].cleaned - runs["plain"].cleaned))
    print(f"cleaned photographs differ by {apart:.1e} at most, white being 1")
    print("PSNR on the part of the photograph that training never saw:")
    pictures = {"noisy": noisy, **{name: run.cleaned for name, run in runs.items()}, "truth": truth}
    for name in ("noisy", *runs):
        print(f"  {name:8}  {decibels((pictures[name] - truth) ** 2):.2f} dB")
    save_picture(args.out, runs, pictures, truth)
    print(f"Picture: {args.out.resolve()}")


if __name__ == "__main__":
    main()
