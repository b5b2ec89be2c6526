"""What from_keras.py and from_pytorch.py share: digits, the numbers that they are drawn from, and the picture."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

CODE = 16
Array = NDArray[np.float32]


def digits_and_codes() -> tuple[Array, Array]:
    """Pictures `[n, 8, 8]` from 0 to 1, and what is to be drawn from: `[n, CODE]`, their principal components."""
    pictures = load_digits().images.astype(np.float32) / 16
    flat = pictures.reshape(len(pictures), -1)
    scores, _, _ = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    return pictures, (scores[:, :CODE] * len(flat) ** 0.5).astype(np.float32)


def save_comparison(path: Path, rows: dict[str, Array]) -> None:
    """The first ten pictures of each row, with its name."""
    figure = Figure(figsize=(8, 0.6 + 0.8 * len(rows)), dpi=150, layout="constrained")
    for axes, (name, pictures) in zip(figure.subplots(len(rows), 10), rows.items(), strict=True):
        axes[0].set_ylabel(name)
        for ax, picture in zip(axes, pictures[:10], strict=True):
            ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
    figure.savefig(path)
