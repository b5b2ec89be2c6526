"""One cell: all peers on the same work, compared with lax first and then timed in turns."""

import dataclasses
import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from . import machine
from .peers import jax as peer_jax
from .peers.entry import Builder, Costs, Entry, Work
from .work.cases import Array
from .work.models import Model
from .work.stacks import Stack

# Of the largest magnitude. GPUs and TPUs multiply float32 in fewer bits unless told otherwise, in every framework;
# TensorFlow's kernel gradients in bfloat16 are 2.4 % off in one case (rgbout).
BOUNDS = {("cpu", "float32"): 1e-5}
COARSE = 5e-2
# Of the 2-norm, for stacks: where rounding flips a sign, a rectifier's derivative jumps, so single gradients differ.
STACK_BOUNDS = {("cpu", "float32"): 2e-3}
COARSE_STACK = 0.15
# A model's loss keeps to the bound for stacks. So does its whole gradient, unless rounding alone moves it further:
# BatchNorm over few images and rectifiers amplify it (MobileNetV2: last bits of weights, 2 % of the gradient). Then
# the whole gradient may be SENSITIVE times as far off as lax's own moves in the worse of two tries, since every layer
# rounds anew, but never further than COARSE_GRADIENT. Single gradients may be a few images' means, where
# one sign more is a hundredth, and some are zero but for rounding (a bias ahead of a normalisation): so the bound for
# each is coarse, and of the whole gradient's 2-norm where that, times this, is larger than its own.
COARSE_GRADIENT, NEGLIGIBLE = 0.1, 1e-3
SENSITIVE, TRIES = 4, 2
# lax's naive loops add one product after the other: past so many, their own rounding reaches the bound of float32.
EXACT_TERMS = 2**14
# Seconds for which a peer runs before it is timed, as it would in a loop: 16, 16², 256→128, k 4, s 2, forward, 21.6 ms,
# after 0.02 seconds 25. Then seconds for which it is: single runs of 4, 32², depthwise 64, k 4, s 2, take 0.13 to 0.3
# ms, as threads are woken early or late. Runs that take longer than SLOW are timed at once.
SETTLING, TIMING, SLOW = 0.1, 0.02, 0.1


class WrongResult(Exception):
    """A peer's results differ from lax's by more than rounding."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What a peer did with one piece of work; `ms` is None where it was not timed, and `reason` says why."""

    kind: str
    name: str
    label: str
    dtype: str
    pass_: str
    peer: str
    groups: int
    flops: int
    bytes: int  # that the maps must at least move
    outputs: int  # elements of the result
    ms: float | None = None
    rounds: int = 0
    reason: str | None = None
    wrong: bool = False  # it failed, or its results were wrong
    costs: Costs | None = None


def measure(
    work: Work,
    dtype: str,
    pass_: str,
    builders: Mapping[str, Builder],
    rounds: int,
    budget: float,
) -> list[Record]:
    """A record for each peer; `budget` is the seconds that one may take, after which it gets fewer rounds."""
    arrays = work.arrays(dtype)
    want, allowed = reference(work, arrays, dtype, pass_)
    maps, itemsize = {"forward": 1, "train": 3}[pass_], {"float32": 4, "bfloat16": 2}[dtype]
    facts: dict[str, Any] = dict(
        kind=work.kind,
        name=work.name,
        label=work.label,
        dtype=dtype,
        pass_=pass_,
        groups=work.groups,
        flops=maps * work.flops,
        bytes=maps * itemsize * work.elements,
        outputs=work.outputs,
    )
    entries: dict[str, Entry] = {}
    refused: dict[str, dict[str, Any]] = {}
    for name, builder in builders.items():
        try:
            entry = builder(work, arrays, dtype, pass_)
            compare(work, dtype, entry.results(entry.run()), want, allowed)
            entries[name] = entry
        except NotImplementedError as error:
            refused[name] = dict(reason=str(error))
        except Exception as error:  # one peer's failure, reported and not timed, costs nobody else's figures
            first = (str(error).splitlines() or [""])[0]
            refused[name] = dict(reason=f"{type(error).__name__}: {first}", wrong=True)
    samples = interleave({name: entry.run for name, entry in entries.items()}, rounds, budget)
    records = []
    for name in builders:
        if name in refused:
            records.append(Record(peer=name, **facts, **refused[name]))
            continue
        taken = samples[name]
        median = 1e3 * statistics.median(taken)
        records.append(Record(peer=name, ms=median, rounds=len(taken), costs=entries[name].costs, **facts))
    del entries, arrays
    jax.clear_caches()
    gc.collect()
    return records


def reference(work: Work, arrays: Any, dtype: str, pass_: str) -> tuple[list[Array], float]:
    """lax's results, and how far others may be from them: of the largest magnitude, or for a stack or a model of the
    2-norm."""
    usual = bound(work, dtype)
    if not isinstance(work, Model):
        return peer_jax.reference(work, arrays, dtype, pass_), usual
    want, *moved = peer_jax.references_of_model(work, [arrays, *map(arrays.rounded, range(TRIES))])
    whole = _flat(want)
    furthest = max(float(np.linalg.norm(_flat(other) - whole)) for other in moved) / float(np.linalg.norm(whole))
    return want, max(usual, min(SENSITIVE * furthest, COARSE_GRADIENT))


def compare(work: Work, dtype: str, got: Sequence[Array], want: Sequence[Array], allowed: float) -> None:
    """Raises WrongResult where the results are further from lax's than rounding explains; `reference` has `allowed`."""
    if not isinstance(work, Model):
        check(got, want, allowed, isinstance(work, Stack))
        return
    whole = float(np.linalg.norm(_flat(want)))
    check(got, want, COARSE_GRADIENT, by_norm=True, least=NEGLIGIBLE * whole)
    check(got[:1], want[:1], bound(work, dtype), by_norm=True)
    check([_flat(got)], [_flat(want)], allowed, by_norm=True)


def _flat(results: Sequence[Array]) -> Array:
    """All gradients, which follow the loss, as one array."""
    return np.concatenate([gradient.ravel() for gradient in results[1:]])


def bound(work: Work, dtype: str) -> float:
    """How far rounding usually takes results from lax's, measured as `reference` says."""
    key = machine.device(), dtype
    if isinstance(work, Stack | Model):
        return STACK_BOUNDS.get(key, COARSE_STACK)
    return BOUNDS.get(key, COARSE) * max(1, work.terms / EXACT_TERMS) ** 0.5


def check(got: Sequence[Array], want: Sequence[Array], bound: float, by_norm: bool = False, least: float = 0) -> None:
    """Raises WrongResult where an array is further from lax's than `bound` times its largest magnitude, or 2-norm.

    Where that is less than `least`, `least` is in its place.
    """
    if len(got) != len(want):
        raise WrongResult(f"{len(got)} results, not {len(want)}")
    for index, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        if ours.shape != theirs.shape:
            raise WrongResult(f"result {index} has shape {ours.shape}, not {theirs.shape}")
        norm: Callable[[Array], Any] = np.linalg.norm if by_norm else lambda array: np.abs(array).max(initial=0)
        error, scale = float(norm((ours - theirs).ravel())), max(float(norm(theirs.ravel())), least)
        if not error <= bound * scale:  # so that NaN is wrong too
            raise WrongResult(f"result {index} differs by {error:.2g} of {scale:.2g}; allowed: {bound:.2g} times that")


def interleave(runs: Mapping[str, Callable[[], Any]], rounds: int, budget: float) -> dict[str, list[float]]:
    """Seconds of each run of each peer, taken in turns; slow ones sit out turns, evenly spread, but for two.

    Each turn has an order of its own, so that nobody always follows the same peer, whose data fill the caches.
    """
    rng = random.Random(0)
    samples = {name: [_timed(run)] for name, run in runs.items()}
    wanted = {name: max(min(rounds, int(budget / taken[0])), min(rounds, 2)) for name, taken in samples.items()}
    for turn in range(1, rounds):
        for name in rng.sample(list(runs), len(runs)):
            if turn * wanted[name] // rounds != (turn - 1) * wanted[name] // rounds:
                samples[name].append(_timed(runs[name]))
    return samples


def _timed(run: Callable[[], Any]) -> float:
    """The median of runs that follow others of the same peer: short work takes twice as long until Linux has spread
    threads, and now and then after, when a thread that waits is woken late."""
    # PyTorch's threads wait for more work in a busy loop for 5 to 12 ms, and the next peer would pay for it: half of a
    # run of 10 ms. Linux counts the time of other threads in ticks, of up to 10 ms: a shorter nap would see none.
    for _ in range(20):
        busy = time.process_time()
        time.sleep(0.012)
        if time.process_time() - busy < 0.0005:
            break
    settled = time.perf_counter() + SETTLING
    taken: list[float] = []
    while True:
        start = time.perf_counter()
        run()
        end = time.perf_counter()
        slow = end - start > SLOW
        if slow or start >= settled:
            taken.append(end - start)
        if slow or (taken and end >= settled + TIMING):
            return statistics.median(taken)
