"""Train here, serve elsewhere: a program of any batch size in one file, and a TensorFlow SavedModel of it.

    pip install -e '.[models]'                      # and tensorflow for the SavedModel, which is skipped without
    python examples/serve.py

A small network learns to restore scikit-learn's digits from a quarter of their pixels. `jax.export` writes it down as
StableHLO, weights included, for CPU, CUDA and TPU at once, with a batch size that is left open. That file is all a
server needs: it is read back here, run for several batch sizes, and compared with the network that it came from. Then
`jax2tf` packs the same function into a SavedModel, for TensorFlow Serving and its like, and that is compared too.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from jax import export
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from jdeconv import conv2d_transpose

Images = NDArray[np.float32]  # [n, height, width, 1], from 0 (paper) to 1 (ink)
Weights = dict[str, jax.Array]
Served = Callable[[Images], Images]

TRAINED_ON, BATCH, LEARNING_RATE = 1500, 128, 3e-3
STEPS, QUICK_STEPS = 3000, 200
BATCH_SIZES = (1, 5, 64, 297)
PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-5  # of ink: another compiler adds up in another order


def initial(key: jax.Array) -> Weights:
    he, keys = jax.nn.initializers.he_normal(), jax.random.split(key, 3)
    return {
        "see": he(keys[0], (3, 3, 1, 64)),
        "think": he(keys[1], (3, 3, 64, 64)),
        "enlarge": he(keys[2], (4, 4, 1, 64)) / 8,  # [height, width, out, in]
    }


def restore(weights: Weights, small: jax.Array) -> jax.Array:
    """Digits `[n, 8, 8, 1]` from `[n, 4, 4, 1]`, where n may be a number or a symbol."""

    def layer(x: jax.Array, name: str) -> jax.Array:
        names = ("NHWC", "HWIO", "NHWC")
        return jax.nn.gelu(jax.lax.conv_general_dilated(x, weights[name], (1, 1), "SAME", dimension_numbers=names))

    seen = layer(layer(small, "see"), "think")
    return jax.nn.sigmoid(conv2d_transpose(seen, weights["enlarge"], (-1, 8, 8, 1), strides=2, padding="SAME"))


def train(weights: Weights, small: Images, digits: Images, steps: int, seed: int) -> Weights:
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))
    state = optimizer.init(weights)

    @jax.jit
    def train_step(
        weights: Weights, state: optax.OptState, small: jax.Array, digits: jax.Array
    ) -> tuple[Weights, optax.OptState, jax.Array]:
        value, slope = jax.value_and_grad(lambda weights: jnp.mean((restore(weights, small) - digits) ** 2))(weights)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(weights, updates), state, value

    random = np.random.default_rng(seed)
    progress = tqdm(range(steps), desc="training", unit="step")
    for step in progress:
        chosen = random.integers(len(digits), size=BATCH)
        weights, state, value = train_step(weights, state, small[chosen], digits[chosen])
        if step % 50 == 0 or step == steps - 1:
            progress.set_postfix(error=f"{value**0.5:.3f}")
    return weights


def through_stablehlo(function: Served, path: Path) -> Served:
    """`function` written to a file, and what the file alone gives back."""
    (batch,) = export.symbolic_shape("batch")
    argument = jax.ShapeDtypeStruct((batch, 4, 4, 1), jnp.float32)
    path.write_bytes(export.export(jax.jit(function), platforms=PLATFORMS)(argument).serialize())

    program = export.deserialize(bytearray(path.read_bytes()))
    print(f"StableHLO for {', '.join(program.platforms)}: {path.resolve()}, {path.stat().st_size / 1e3:.0f} kB")
    print(f"  {program.in_avals[0].str_short()} to {program.out_avals[0].str_short()}")
    return lambda images: np.asarray(program.call(images))


def through_tensorflow(function: Served, folder: Path) -> Served | None:
    """`function` saved as a SavedModel, and what TensorFlow loads from it; None where TensorFlow is absent."""
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # whose notice would be in the way
    try:
        import tensorflow as tf  # type: ignore[import-not-found,import-untyped,unused-ignore]
        from jax.experimental import jax2tf
    except ImportError as error:
        print(f"SavedModel: skipped, since TensorFlow or jax2tf is absent ({error})")
        return None
    module = tf.Module()
    converted = jax2tf.convert(function, polymorphic_shapes=["(batch, 4, 4, 1)"], with_gradient=False)
    module.restore = tf.function(converted, [tf.TensorSpec((None, 4, 4, 1))], autograph=False)
    tf.saved_model.save(module, str(folder))

    loaded = tf.saved_model.load(str(folder))
    print(f"SavedModel for TensorFlow {tf.__version__}: {folder.resolve()}")
    return lambda images: loaded.restore(images).numpy()


def load_digits() -> Images:
    from sklearn import datasets  # type: ignore[import-untyped]  # slow to import

    return (datasets.load_digits().images[..., None] / 16).astype(np.float32)


def save_picture(path: Path, rows: dict[str, Images], title: str) -> None:
    figure = Figure(figsize=(12, 0.9 + 0.75 * len(rows)), dpi=120, layout="constrained")
    figure.suptitle(title)
    columns = 16
    axes = figure.subplots(len(rows), columns)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for ax, image in zip(line, images[:columns], strict=True):
            ax.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--steps", type=int, metavar="N", help=f"of training (default: {STEPS}; with --quick {QUICK_STEPS})")
    add("--seed", type=int, default=0, metavar="N", help="of weights and batches (default: %(default)s)")
    add("--quick", action="store_true", help="a few seconds of training, to see that it runs")
    add(
        "--out",
        type=Path,
        default=Path("serve.png"),
        help="the PNG to write (default: %(default)s); programs go beside",
    )
    args = parser.parse_args()

    digits = load_digits()
    small = digits.reshape(-1, 4, 2, 4, 2, 1).mean(axis=(2, 4))
    steps = args.steps or (QUICK_STEPS if args.quick else STEPS)
    weights = train(initial(jax.random.key(args.seed)), small[:TRAINED_ON], digits[:TRAINED_ON], steps, args.seed)
    small, digits = small[TRAINED_ON:], digits[TRAINED_ON:]

    trained = jax.jit(lambda images: restore(weights, images))
    served = {"StableHLO": through_stablehlo(trained, args.out.with_suffix(".stablehlo"))}
    if tensorflow := through_tensorflow(trained, args.out.with_suffix(".savedmodel")):
        served["TensorFlow"] = tensorflow
    rows = {"input": small, "trained": np.asarray(trained(small))}
    for name, function in served.items():
        worst = 0.0
        for n in BATCH_SIZES:
            found, wanted = function(small[:n]), np.asarray(trained(small[:n]))
            if found.shape != wanted.shape or (difference := np.abs(found - wanted).max()) > TOLERANCE:
                raise SystemExit(f"{name} differs from what was trained, at batch size {n}")
            worst = max(worst, difference)
        print(f"{name} equals what was trained at batch sizes {BATCH_SIZES}: they differ by {worst:.1e} at most")
        rows[name] = function(small)
    rows["truth"] = digits
    error, blocks = (
        np.sqrt(np.mean((guess - digits) ** 2)) for guess in (rows["trained"], small.repeat(2, 1).repeat(2, 2))
    )
    print(f"error on held-out digits: {error:.3f} of ink, input {blocks:.3f}")
    save_picture(args.out, rows, "8 x 8 pixels restored from 4 x 4: as trained, and as served")
    print(f"Picture: {args.out.resolve()}")


if __name__ == "__main__":
    main()
