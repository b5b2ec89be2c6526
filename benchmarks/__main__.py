"""A training step (value and both gradients) of jdeconv and of `jax.lax.conv_transpose`, as a Markdown table.

Interleaved rounds on the same arrays, after the results were checked equal; medians in milliseconds. lax is slow: a few
seconds a case.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

import jdeconv


class Work(NamedTuple):
    """SAME padding, output = input * stride, square images and kernels."""

    batch: int
    size: int
    c_in: int
    c_out: int
    kernel: int
    stride: int


CASES = {
    "DCGAN, first layer": Work(16, 8, 512, 256, 4, 2),
    "DCGAN, second": Work(16, 16, 256, 128, 4, 2),
    "DCGAN, third": Work(16, 32, 128, 64, 4, 2),
    "U-Net, 2x2": Work(4, 32, 512, 256, 2, 2),
    "U-Net, 2x2, large": Work(1, 128, 128, 64, 2, 2),
    "kernel 3, stride 2": Work(8, 32, 128, 64, 3, 2),
    "kernel 5, stride 2": Work(8, 16, 256, 128, 5, 2),
    "FCN, 16x16, stride 8": Work(1, 32, 21, 21, 16, 8),
    "to RGB": Work(8, 64, 64, 3, 4, 2),
    "kernel 3, stride 1": Work(8, 32, 128, 128, 3, 1),
    "kernel 9, stride 3, to grey": Work(2, 64, 56, 1, 9, 3),
}
Step = Callable[..., tuple[jax.Array, ...]]


def steps(work: Work) -> dict[str, Step]:
    def step(
        forward: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, w: jax.Array, y: jax.Array
    ) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(forward, x, w)
        return (out, *pull(y))

    out = (work.batch, work.size * work.stride, work.size * work.stride, work.c_out)
    return {
        "jdeconv": jax.jit(functools.partial(step, lambda x, w: jdeconv.conv2d_transpose(x, w, out, work.stride))),
        "lax": jax.jit(
            functools.partial(
                step,
                lambda x, w: jax.lax.conv_transpose(x, w, (work.stride,) * 2, "SAME", transpose_kernel=True),
            )
        ),
    }


def measure(work: Work, rounds: int) -> dict[str, float]:
    """Median milliseconds of each."""
    rng = np.random.default_rng(0)
    sizes = (work.batch, work.size, work.size, work.c_in), (work.kernel, work.kernel, work.c_out, work.c_in)
    x, w = (jnp.asarray(rng.standard_normal(shape, dtype="float32")) for shape in sizes)
    functions = steps(work)
    y = jnp.ones((work.batch, work.size * work.stride, work.size * work.stride, work.c_out))
    results = {name: jax.block_until_ready(function(x, w, y)) for name, function in functions.items()}
    for got, want in zip(results["jdeconv"], results["lax"], strict=True):
        error, scale = float(jnp.abs(got - want).max()), float(jnp.abs(want).max())
        assert error <= 1e-5 * scale, f"{work}: results differ by {error} of {scale}"
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(x, w, y))
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds a case (default: %(default)s)")
    rounds = parser.parse_args().rounds
    rows = ["| N, H = W, channels, kernel, stride | | jdeconv | lax | times |", "|---|---|---|---|---|"]
    ratios = []
    for name, work in tqdm(CASES.items(), unit="case"):
        found = measure(work, rounds)
        ratios.append(found["lax"] / found["jdeconv"])
        shape = f"{work.batch}, {work.size}, {work.c_in}→{work.c_out}, {work.kernel}, {work.stride}"
        rows.append(f"| {shape} | {name} | {found['jdeconv']:.1f} ms | {found['lax']:.0f} ms | {ratios[-1]:.1f} |")
    print(*rows, f"\nJAX {jax.__version__}, median {statistics.median(ratios):.0f} times.", sep="\n")


if __name__ == "__main__":
    main()
