"""Ratios case by case, and how near each case comes to the fastest matrix product."""

import importlib
import pathlib
from collections.abc import Sequence
from typing import Any

from ..measure import Record
from ..peers import SUBJECT


def draw(machine: dict[str, Any], records: Sequence[Record], path: pathlib.Path) -> None:
    """A PNG with two panels; needs matplotlib."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    plt = importlib.import_module("matplotlib.pyplot")
    timed = [record for record in records if record.ms and record.kind != "growth" and "jdeconv:" not in record.peer]
    ours = {(r.name, r.dtype, r.pass_): r for r in timed if r.peer == SUBJECT}
    rows = {key: row for row, key in enumerate(reversed(ours))}
    figure, (left, right) = plt.subplots(1, 2, figsize=(15, max(5, 0.16 * len(rows))), layout="constrained")

    for peer in dict.fromkeys(record.peer for record in timed if record.peer != SUBJECT):
        both = [r for r in timed if r.peer == peer and (r.name, r.dtype, r.pass_) in ours]
        points = [
            ((r.ms or 0) / (ours[r.name, r.dtype, r.pass_].ms or 1), rows[r.name, r.dtype, r.pass_]) for r in both
        ]
        left.scatter(*zip(*points, strict=True), s=14, label=peer)
    left.axvline(1, color="black", linewidth=0.8)
    left.set_xscale("log")
    left.set_xlabel("times as long as jdeconv")
    left.set_yticks(list(rows.values()), [", ".join(key) for key in rows], fontsize=6)
    left.set_ylim(-1, len(rows))
    left.grid(axis="x", linewidth=0.3)
    if left.collections:
        left.legend(fontsize=7)

    for color, (dtype, peak) in enumerate(machine["peak"].items()):
        right.axhline(peak, color=f"C{color}", linewidth=0.8)
        right.annotate(f"matrix product, {dtype}", (0.01, peak), xycoords=("axes fraction", "data"), fontsize=7)
        for pass_, marker in (("forward", "o"), ("train", "x")):
            chosen = [r for r in ours.values() if (r.dtype, r.pass_) == (dtype, pass_)]
            if not chosen:
                continue
            speeds = [r.flops / (r.ms or 1) / 1e6 for r in chosen]
            intensities = [r.flops / r.bytes for r in chosen]
            right.scatter(intensities, speeds, s=16, marker=marker, color=f"C{color}", label=f"{pass_}, {dtype}")
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("FLOP per byte that must be moved")
    right.set_ylabel("GFLOP/s of jdeconv")
    right.grid(linewidth=0.3)
    if right.collections:
        right.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)
