"""What `geometries.json` was made by: `python -m benchmarks.plan.draw` writes it anew.

Problems of float32 come first: layers of networks, then random geometries; then the other dtypes. A change here makes
times out of date: those of the problems that it changes are dropped and measured again.
"""

import dataclasses
import math
import random
from collections.abc import Callable, Iterator
from typing import TypeVar

from jdeconv._engine.engine import MOST_SPLIT_GROUPS
from jdeconv._geometry import Geometry, build
from jdeconv._plan.problem import Problem

from ..work.cases import CASES, Case
from ..work.ordinary import ORDINARY, Ordinary
from . import problems
from .problems import Item

_Work = TypeVar("_Work", Case, Ordinary)
SEED, COUNT = 25, 96  # of the random geometries in float32
RESULTS = ("output", "input", "kernel")
# Operands, result, number of random geometries.
OTHERS = (
    ("bfloat16", "bfloat16", 18),
    ("float64", "float64", 12),
    ("int8", "int32", 9),
    ("int32", "int32", 9),
    ("complex64", "complex64", 9),
)
# Cases on which an earlier table lost to PyTorch.
MISSED = (
    Case("missed-rows", 1, (8, 256), 64, 64, (4, 4), (2, 2)),
    Case("missed-odd", 3, (17, 29), 80, 40, (3, 5), (2, 2)),
    Case("missed-unet", 2, (24, 24), 384, 192, (2, 2), (2, 2)),
)
# Operations that lax runs in some 200 ms on two cores: by Eigen, by its loops, and in other dtypes. In a
# dilated convolution it multiplies zeros too.
MOST, MOST_IN_VOLUMES, MOST_BY_LOOPS, MOST_OF_OTHERS, LEAST = 4e9, 3e8, 1.6e7, 6e7, 2e5


def items() -> list[Item]:
    """All problems in the order of their priority."""
    rng = random.Random(SEED)
    layers = [_lessened(case, _of_case, result) for case in (*MISSED, *CASES) for result in RESULTS]
    # Ordinary convolutions are run for their outputs, our 'input', more often than for gradients.
    turns = ("input", "kernel", "input", "output")
    layers += [_lessened(work, _of_ordinary, turns[number % 4]) for number, work in enumerate(ORDINARY)]
    found = [*layers, *_random(rng, "random", COUNT, "float32", "float32")]
    typed = [_in_dtype(layer, "bfloat16") for layer in layers[::5]]
    found += [item for item in typed if not _too_slow(item.problem)]
    for operands, dtype, count in OTHERS:
        found += _random(rng, f"random-{operands}", count, operands, dtype)
    return found


def _of_case(case: Case, result: str) -> Item:
    geometry = build(case.size, case.kernel, case.stride, (1,) * case.rank, "SAME", case.out_size)
    return _item(case.name, geometry, result, case.batch, case.groups, case.c_in, case.c_out)


def _of_ordinary(work: Ordinary, result: str) -> Item:
    """An ordinary convolution is the same sum, solved for the input: its output is our input."""
    low = tuple(low for low, _ in work.pads)
    geometry = Geometry(work.out_size, work.kernel, work.size, work.stride, (work.dilation,) * work.rank, low)
    return _item(work.name, geometry, result, work.batch, work.groups, work.c_out, work.c_in)


def _item(
    name: str,
    geometry: Geometry,
    result: str,
    batch: int,
    groups: int,
    inputs: int,
    outputs: int,
    operands: str = "float32",
    dtype: str = "float32",
) -> Item:
    """`inputs` and `outputs` are those of all groups."""
    problem = Problem(geometry, result, batch, groups, inputs // groups, outputs // groups, dtype)
    return Item(f"{name}/{result}/{operands}", problem, operands)


def _in_dtype(item: Item, dtype: str) -> Item:
    name = f"{item.name.rpartition('/')[0]}/{dtype}"
    return Item(name, dataclasses.replace(item.problem, dtype=dtype), dtype)


def _lessened(work: _Work, made: Callable[[_Work, str], Item], result: str) -> Item:
    """A result of a smaller batch, or of smaller images, if lax would be too slow."""
    while _too_slow((item := made(work, result)).problem):
        if work.batch > 1:
            work = dataclasses.replace(work, batch=(work.batch + 1) // 2)
        else:
            largest = work.size.index(max(work.size))
            sizes = (size // 2 if number == largest else size for number, size in enumerate(work.size))
            work = dataclasses.replace(work, size=tuple(sizes))
    return item


def _too_slow(problem: Problem) -> bool:
    """Whether lax takes far more than 200 ms; its own time was the measure."""
    geometry = problem.geometry
    dilated = problem.result != "input" and math.prod(geometry.strides) > 1
    most = MOST
    looped = problem.groups > 1 or problem.dtype == "bfloat16" or (dilated and problem.outputs <= 4)
    if problem.groups > MOST_SPLIT_GROUPS or (geometry.rank == 3 and looped):
        most = MOST_BY_LOOPS
    elif problem.dtype not in ("float32", "bfloat16"):
        most = MOST_OF_OTHERS
    elif geometry.rank == 3 and dilated:
        most = MOST_IN_VOLUMES
    stuffed = math.prod(geometry.strides) if dilated else 1
    return bool(problem.flops * stuffed > most)


def _random(rng: random.Random, name: str, count: int, operands: str, dtype: str) -> Iterator[Item]:
    number = 0
    while number < count:
        item = _drawn(rng, f"{name}-{number:02}", RESULTS[number % 3], operands, dtype)
        if item is not None and item.problem.flops >= LEAST and not _too_slow(item.problem):
            yield item
            number += 1


def _drawn(rng: random.Random, name: str, result: str, operands: str, dtype: str) -> Item | None:
    def spread(low: int, high: int) -> int:
        """Every octave as likely as the next."""
        return int(2 ** rng.uniform(math.log2(low), math.log2(high + 1)))

    rank = rng.choice((1, 2, 2, 2, 3))
    alike = rng.random() < 0.7

    def sizes(draw: Callable[[], int]) -> tuple[int, ...]:
        return (draw(),) * rank if alike else tuple(draw() for _ in range(rank))

    low, high = {1: (16, 4096), 2: (4, 96), 3: (4, 24)}[rank]
    size = sizes(lambda: spread(low, high))
    kernel = sizes(lambda: rng.choice((1, 2, 3, 3, 3, 4, 4, 5, 7, 9, 16) if rank < 3 else (1, 2, 3, 3, 4, 5)))
    strides = sizes(lambda: rng.choice((1, 1, 1, 2, 2, 2, 3, 4, 8)))
    if rng.random() < 0.15:  # patches
        strides = kernel
    dilations = (1,) * rank
    if rng.random() < (0.25 if max(strides) == 1 else 0.05):
        dilations = (rng.choice((2, 3, 4, 12)),) * rank
    kind = rng.choice(("dense", "dense", "dense", "first", "last", "depthwise", "depthwise", "groups"))
    groups, inputs, outputs = 1, spread(4, 512), spread(4, 512)
    if kind in ("first", "last"):  # of a network of ordinary convolutions, or of transposed ones
        few = rng.choice((1, 2, 3, 4))
        inputs, outputs = (few, outputs) if kind == "first" else (inputs, few)
    elif kind == "depthwise":
        groups = inputs = outputs = spread(8, 512)
        outputs *= rng.choice((1, 1, 1, 2))
    elif kind == "groups":
        groups = rng.choice((2, 3, 4, 8, 16, 32))
        inputs, outputs = groups * spread(2, 64), groups * spread(2, 64)
    padding = rng.choice(("SAME", "SAME", "SAME", "VALID"))
    batch = spread(1, 64)
    geometry = build(size, kernel, strides, dilations, padding)
    # A picture of 16 pixels with dilation 12 is all padding, which nobody runs.
    if any((k - 1) * d >= out for k, d, out in zip(kernel, dilations, geometry.output, strict=True)):
        return None
    elements = batch * max(inputs * math.prod(geometry.input), outputs * math.prod(geometry.output))
    if elements > 2**23:
        return None
    return _item(name, geometry, result, batch, groups, inputs, outputs, operands, dtype)


if __name__ == "__main__":
    problems.write(items())
