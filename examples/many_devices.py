"""One network trained on eight devices in two ways, and what they have to send each other for it.

    pip install -e '.[models]'
    python examples/many_devices.py                 # on any machine: eight devices are made of its processor

A small network that takes noise out of photographs (a strided convolution down, a transposed one back up) is trained
three times from the same start: on one device; with the batch split over eight devices; and with every image split into
eight strips. The compiled programs are searched for collectives, and what they compute is compared.

The batch is split by `jit` alone. The strips are split by `shard_map`, where each device fetches the rows that it needs
from its two neighbours. `jit` alone would fetch them too where the output has `stride` times the input's rows; here the
input has a border, so that its rows don't fall into equal strips, and jdeconv gathers it. What that costs is printed.
"""

import argparse
import collections
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from jax import P
from jax.sharding import AxisType, NamedSharding, Sharding, SingleDeviceSharding
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from jdeconv import conv2d_transpose

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

Images = NDArray[np.float32]  # [n, height, width, 3], from 0 to 1
Weights = dict[str, jax.Array]
Loss = Callable[[Weights, jax.Array, jax.Array], jax.Array]

DEVICES, CHANNELS, PATCH, BATCH, NOISE, LEARNING_RATE = 8, 16, 96, 8, 0.15, 3e-3
STEPS, QUICK_STEPS = 400, 8
COLLECTIVE = re.compile(r"= (.+?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


def initial(key: jax.Array) -> Weights:
    he, keys, c = jax.nn.initializers.he_normal(), jax.random.split(key, 5), CHANNELS
    return {
        "see": he(keys[0], (3, 3, 3, c)),
        "shrink": he(keys[1], (4, 4, c, 2 * c)),
        "think": he(keys[2], (3, 3, 2 * c, 2 * c)),
        "enlarge": jax.random.normal(keys[3], (4, 4, c, 2 * c)) / 16,  # [height, width, out, in]
        "tell": jax.random.normal(keys[4], (3, 3, 2 * c, 3)) / 100,
    }


def denoised(weights: Weights, noisy: jax.Array, strips: str | None = None) -> jax.Array:
    """Clean images, where `noisy` is whole or, under `shard_map`, this device's strip on the mesh axis `strips`.

    Each operator here needs one row above and below its own. Those of the whole image are zero.
    """

    def bordered(x: jax.Array) -> jax.Array:
        if strips is None:
            return jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
        down = [(i, i + 1) for i in range(DEVICES - 1)]  # who receives from nobody gets zeros
        above = jax.lax.ppermute(x[:, -1:], strips, down)
        below = jax.lax.ppermute(x[:, :1], strips, [(to, source) for source, to in down])
        return jnp.concatenate([above, x, below], axis=1)

    def convolved(x: jax.Array, name: str, stride: int = 1) -> jax.Array:
        names, padding = ("NHWC", "HWIO", "NHWC"), ((0, 0), (1, 1))
        return jax.lax.conv_general_dilated(
            bordered(x), weights[name], (stride, stride), padding, dimension_numbers=names
        )

    seen = jax.nn.gelu(convolved(noisy - 0.5, "see"))
    small = jax.nn.gelu(convolved(seen, "shrink", stride=2))
    small = small + jax.nn.gelu(convolved(small, "think"))
    # Twice the two bordering rows, and SAME's one: three rows more at each end than SAME would cut.
    cut = ((0, 0), (3, 3), (1, 1), (0, 0))
    large = jax.nn.gelu(conv2d_transpose(bordered(small), weights["enlarge"], None, strides=2, padding=cut))
    return noisy - convolved(jnp.concatenate([seen, large], axis=3), "tell")


def loss(weights: Weights, noisy: jax.Array, clean: jax.Array, strips: str | None = None) -> jax.Array:
    error = jnp.mean((denoised(weights, noisy, strips) - clean) ** 2)
    return error if strips is None else jax.lax.pmean(error, strips)


OPTIMIZER = optax.adam(LEARNING_RATE)


@functools.partial(jax.jit, static_argnums=0)
def train_step(
    loss: Loss, weights: Weights, state: optax.OptState, noisy: jax.Array, clean: jax.Array
) -> tuple[Weights, optax.OptState, jax.Array, Weights]:
    value, gradient = jax.value_and_grad(loss)(weights, noisy, clean)
    updates, state = OPTIMIZER.update(gradient, state)
    return optax.apply_updates(weights, updates), state, value, gradient


def load_photos() -> list[Images]:
    from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]  # slow to import

    return [
        (photo[:416] / 255).astype(np.float32) for photo in load_sample_images().images
    ]  # 416: eight strips of even height


def batches(photos: list[Images], steps: int, seed: int) -> Iterator[tuple[Images, Images]]:
    """Noisy and clean patches, the same ones for the same seed."""
    random = np.random.default_rng(seed)
    for _ in range(steps):
        corners = [(random.integers(2), *random.integers((416 - PATCH, 640 - PATCH))) for _ in range(BATCH)]
        clean = np.stack([photos[i][y : y + PATCH, x : x + PATCH] for i, y, x in corners])
        yield clean + NOISE * random.standard_normal(clean.shape, np.float32), clean


def exchanged(program: str) -> str:
    """What the devices of a compiled program send each other, and what is gathered."""
    found = COLLECTIVE.findall(program)
    kinds = collections.Counter(kind for _, kind in found)
    gathered = [re.sub(r"{.*?}", "", shape) for shape, kind in found if kind == "all-gather"]
    counts = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
    return (counts or "nothing") + (f" (gathers {' and '.join(gathered)})" if gathered else "")


def difference(found: Any, wanted: Any) -> float:
    """The largest difference between two trees of arrays, each array's relative to its own largest element."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return max(float(np.abs(np.asarray(a) - b).max() / np.abs(b).max()) for a, b in pairs)


def save_picture(
    path: Path, noisy: Images, clean: Images, losses: dict[str, list[float]], sent: dict[str, str]
) -> None:
    figure = Figure(figsize=(13, 9), dpi=120, layout="constrained")
    (left, right), (curve, table) = figure.subplots(2, 2)
    left.imshow(noisy[0].clip(0, 1))
    left.set_title("a noisy photograph")
    right.imshow(clean[0].clip(0, 1))
    right.set_title(f"denoised in {DEVICES} strips, a device each")
    for edge in range(1, DEVICES):
        right.axhline(edge * noisy.shape[1] / DEVICES - 0.5, color="white", linewidth=0.6, linestyle=":")
    for ax in (left, right):
        ax.set(xticks=[], yticks=[])
    for (name, values), width in zip(losses.items(), (7, 3.5, 1.2), strict=True):
        curve.semilogy(np.arange(1, len(values) + 1), values, linewidth=width, label=name)
    curve.set(title="three trainings, one curve", xlabel="step", ylabel="mean square error")
    curve.legend()
    table.axis("off")
    table.set_title("what the devices exchange in a training step")
    lines = "\n\n".join(f"{name}\n    " + text.replace(" (", "\n    (") for name, text in sent.items())
    table.text(0.02, 0.92, lines, va="top", family="monospace", fontsize=9)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--steps", type=int, metavar="N", help=f"of training (default: {STEPS}; with --quick {QUICK_STEPS})")
    add("--seed", type=int, default=0, metavar="N", help="of weights, patches and noise (default: %(default)s)")
    add("--quick", action="store_true", help="a few seconds of training, to see that it runs")
    add("--out", type=Path, default=Path("many_devices.png"), help="the PNG to write (default: %(default)s)")
    args = parser.parse_args()

    mesh = jax.make_mesh((DEVICES,), ("devices",), (AxisType.Auto,))
    everywhere, by_batch, by_rows = (NamedSharding(mesh, spec) for spec in (P(), P("devices"), P(None, "devices")))
    one, rows = SingleDeviceSharding(jax.devices()[0]), by_rows.spec
    in_strips = functools.partial(jax.shard_map, mesh=mesh)
    strips_loss = in_strips(functools.partial(loss, strips="devices"), in_specs=(P(), rows, rows), out_specs=P())
    ways: dict[str, tuple[Loss, Sharding, Sharding]] = {  # the loss, where the weights are, where the images are
        "one device": (loss, one, one),
        "batch split": (loss, everywhere, by_batch),
        "images split, shard_map": (strips_loss, everywhere, by_rows),
        "images split, jit alone": (loss, everywhere, by_rows),
    }
    photos = load_photos()
    weights = initial(jax.random.key(args.seed))
    state, batch = OPTIMIZER.init(weights), next(batches(photos, 1, args.seed))

    steps: dict[str, Any] = {}
    sent: dict[str, str] = {}
    gradients: dict[str, Weights] = {}
    for name, (function, home, layout) in ways.items():
        operands = *jax.device_put((weights, state), home), *jax.device_put(batch, layout)
        steps[name] = train_step.lower(function, *operands).compile()
        sent[name], gradients[name] = exchanged(steps[name].as_text()), steps[name](*operands)[3]
        error = difference(gradients[name], gradients["one device"])
        print(f"{name}: devices exchange {sent[name]}; gradients differ from one device's by {error:.0e}")
        if error > 1e-4 or ("all-gather" in sent[name] and name != "images split, jit alone"):
            raise SystemExit(f"{name}: not what this example promises")

    losses: dict[str, list[float]] = {}
    total = args.steps or (QUICK_STEPS if args.quick else STEPS)
    for name in list(ways)[:3]:
        _, home, layout = ways[name]
        (trained, moments), values = jax.device_put((weights, state), home), []
        for batch in tqdm(batches(photos, total, args.seed), desc=name, unit="step", total=total):
            trained, moments, value, _ = steps[name](trained, moments, *jax.device_put(batch, layout))
            values.append(float(value))
        losses[name] = values
        print(f"{name}: loss {values[0]:.5f} in the first step, {values[-1]:.5f} in the last")

    whole = in_strips(functools.partial(denoised, strips="devices"), in_specs=(P(), rows), out_specs=rows)
    noisy = photos[0][None] + NOISE * np.random.default_rng(args.seed + 1).standard_normal((1, 416, 640, 3), np.float32)
    clean = np.asarray(jax.jit(whole)(trained, jax.device_put(noisy, by_rows)))
    save_picture(args.out, noisy, clean, losses, sent)
    print(f"Picture: {args.out.resolve()}")


if __name__ == "__main__":
    main()
