"""Ratios: how many times longer a peer takes than jdeconv, over many cases."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..measure import Record
from ..peers import SUBJECT

TORCH = ("torch:channels-last", "torch:contiguous")


class Target(NamedTuple):
    """One comparison: jdeconv against the fastest, in each case, of some peers."""

    text: str
    dtype: str
    pass_: str
    grouped: bool
    peers: tuple[str, ...]


TARGETS = (
    Target("the fastest of TensorFlow and PyTorch", "float32", "train", False, ("tensorflow", *TORCH)),
    Target("lax", "float32", "train", False, ("lax",)),
    Target(
        "the fastest of TensorFlow, PyTorch and ONNX Runtime",
        "float32",
        "forward",
        False,
        ("tensorflow", *TORCH, "onnxruntime"),
    ),
    Target("lax", "float32", "forward", False, ("lax",)),
    *(
        Target(text, "float32", pass_, True, peers)
        for pass_ in ("train", "forward")
        for text, peers in (("PyTorch", TORCH), ("lax", ("lax",)))
    ),
    *(
        Target(text, "bfloat16", pass_, grouped, peers)
        for grouped in (False, True)
        for pass_ in ("train", "forward")
        for text, peers in (("PyTorch", TORCH), ("lax", ("lax",)))
    ),
    *(
        Target("a Python loop over unbatched calls", dtype, pass_, False, ("jdeconv:loop",))
        for dtype in ("float32", "bfloat16")
        for pass_ in ("train", "forward")
    ),
)


class Ratios(NamedTuple):
    """Over the cases where both were timed."""

    mean: float  # geometric
    least: float
    worst: str  # the case with the least
    cases: int


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def ratios(records: Iterable[Record], peers: Sequence[str]) -> Ratios | None:
    """The fastest of `peers` over jdeconv, case by case; None where there is no case."""
    found = _ratios(records, peers)
    if not found:
        return None
    worst = min(found, key=lambda key: found[key])
    return Ratios(geometric_mean(list(found.values())), found[worst], worst[0], len(found))


def of_each(records: Iterable[Record], peers: Sequence[str]) -> dict[str, float]:
    """The fastest of `peers` over jdeconv, by the case's name, of records of one dtype and pass."""
    return {key[0]: ratio for key, ratio in _ratios(records, peers).items()}


def _ratios(records: Iterable[Record], peers: Sequence[str]) -> dict[tuple[str, str, str], float]:
    ours: dict[tuple[str, str, str], float] = {}
    theirs: dict[tuple[str, str, str], float] = {}
    for record in records:
        if record.ms is None:
            continue
        key = record.name, record.dtype, record.pass_
        if record.peer == SUBJECT:
            ours[key] = record.ms
        elif record.peer in peers:
            theirs[key] = min(record.ms, theirs.get(key, math.inf))
    return {key: theirs[key] / ours[key] for key in ours if key in theirs}


def of_target(records: Iterable[Record], target: Target) -> Ratios | None:
    fitting = (r for r in records if (r.dtype, r.pass_, r.groups > 1) == (target.dtype, target.pass_, target.grouped))
    return ratios(fitting, target.peers)
