"""Take a DCGAN generator's weights from PyTorch to Flax: the same pictures, to rounding.

    pip install -e '.[examples,flax]' torch
    python examples/from_pytorch.py            # half a minute
    python examples/from_pytorch.py --quick    # a few seconds, and blurred digits

PyTorch learns to draw scikit-learn's handwritten digits from 16 numbers each (their principal components), and saves
its state_dict. From there on only the file counts: it is read with `weights_only=True`, `jdeconv.convert.tree` puts its
values into a Flax nnx model, and both models draw the same digits. The PNG shows them under the originals.
"""

import argparse
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from _digits import CODE, Array, digits_and_codes, save_comparison
from flax import nnx
from tqdm import tqdm  # type: ignore[import-untyped]

from jdeconv import convert
from jdeconv.nnx import ConvTranspose

WIDTH, BATCH = 32, 64


def torch_generator() -> Any:
    """From `[n, CODE, 1, 1]` to `[n, 1, 8, 8]`: 1, 2, 4, 8 pixels."""
    layers = torch.nn
    return layers.Sequential(
        layers.ConvTranspose2d(CODE, 4 * WIDTH, 2, bias=False),
        layers.BatchNorm2d(4 * WIDTH),
        layers.ReLU(),
        layers.ConvTranspose2d(4 * WIDTH, WIDTH, 4, stride=2, padding=1, bias=False),
        layers.BatchNorm2d(WIDTH),
        layers.ReLU(),
        layers.ConvTranspose2d(WIDTH, 1, 4, stride=2, padding=1),
        layers.Sigmoid(),
    )


def flax_generator() -> nnx.Sequential:
    """The same from `[n, 1, 1, CODE]` to `[n, 8, 8, 1]`; SAME is PyTorch's padding=1 for kernel 4 and stride 2."""
    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        ConvTranspose(CODE, 4 * WIDTH, (2, 2), padding="VALID", use_bias=False, rngs=rngs),
        nnx.BatchNorm(4 * WIDTH, use_running_average=True, rngs=rngs),
        nnx.relu,
        ConvTranspose(4 * WIDTH, WIDTH, (4, 4), strides=(2, 2), use_bias=False, rngs=rngs),
        nnx.BatchNorm(WIDTH, use_running_average=True, rngs=rngs),
        nnx.relu,
        ConvTranspose(WIDTH, 1, (4, 4), strides=(2, 2), rngs=rngs),
        nnx.sigmoid,
    )


def learned(pictures: Array, codes: Array, steps: int) -> Any:
    """A PyTorch generator that draws the pictures, in inference mode."""
    torch.manual_seed(0)
    model = torch_generator()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    inputs, truths = torch.tensor(codes)[..., None, None], torch.tensor(pictures)[:, None]
    progress = tqdm(range(steps), desc="learning", unit="step")
    for _ in progress:
        chosen = torch.randint(len(inputs), (BATCH,))
        loss = ((model(inputs[chosen]) - truths[chosen]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress.set_postfix(loss=f"{loss.item():.4f}")
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--steps", type=int, default=300, help="of PyTorch's training (default: %(default)s)")
    add("--quick", action="store_true", help="20 steps")
    add("--weights", type=Path, default=Path("generator.pt"), help="the file to write (default: %(default)s)")
    add("--out", type=Path, default=Path("from_pytorch.png"), help="the PNG to write (default: %(default)s)")
    args = parser.parse_args()

    pictures, codes = digits_and_codes()
    generator = learned(pictures, codes, 20 if args.quick else args.steps)
    torch.save(generator.state_dict(), args.weights)

    state_dict = torch.load(args.weights, weights_only=True)
    model = convert.tree(state_dict, flax_generator(), source="torch", target="flax")

    theirs = generator(torch.tensor(codes[:100])[..., None, None]).detach().numpy()[:, 0]
    ours = np.asarray(model(jnp.asarray(codes[:100])[:, None, None]))[..., 0]
    print(f"Largest difference between the pictures, white being 1: {abs(ours - theirs).max():.1e}")
    save_comparison(args.out, {"digit": pictures, "PyTorch": theirs, "Flax": ours})
    print(f"Side by side: {args.out.resolve()}")


if __name__ == "__main__":
    main()
