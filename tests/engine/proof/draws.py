"""Random calls of the kinds that jdeconv hands to oneDNN. The same seed draws the same calls."""

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Callable
from typing import Any

from .networks import LAYERS

CHANNELS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 32, 33, 48, 64)
CLASSES = tuple(
    " ".join([*itertools.compress(("grouped", "strided", "dilated"), chosen), "convolution"])
    for chosen in itertools.product((False, True), repeat=3)
)
# What `--engine xla` draws instead of classes.
METHODS = ("auto", "lax", "phase", "gemm", "taps")
# What is drawn in each type: no grouped call is ever made in bfloat16.
KINDS = {"float32": CLASSES, "bfloat16": tuple(kind for kind in CLASSES if "grouped" not in kind)}
MOST_REFUSED = 30_000  # draws in a row, some seconds
DISGUISES = ("transposed", "sliced", "reversed")
Draw = tuple[tuple[tuple[int, ...], tuple[int, ...]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of `onednn.conv`, and what its operands are made of."""

    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    arguments: dict[str, Any]
    dtype: str = "float32"
    result: str = "float32"
    seed: int = 0
    disguises: tuple[str, str] = ("", "")
    """How the operands come as parameters of the program, which XLA must bring into the call's layout."""
    infinite: int = 0
    """How many elements of `lhs` are infinite or NaN."""

    @property
    def kind(self) -> str:
        """The class, as `onednn` names it."""
        given = self.arguments
        chosen = (given["feature_group_count"] > 1, max(given["window_strides"]) > 1, max(given["rhs_dilation"]) > 1)
        return " ".join([*itertools.compress(("grouped", "strided", "dilated"), chosen), "convolution"])


@dataclasses.dataclass(frozen=True)
class Program:
    """Calls side by side in one program, run by some threads at once, on a pool of so many threads."""

    calls: tuple[Call, ...]
    guard: str = "end"
    threads: int = 1
    pool: int = 2

    def alone(self, call: Call) -> "Program":
        return dataclasses.replace(self, calls=(call,))

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def read(cls, text: str) -> "Program":
        given = json.loads(text)
        calls = given.pop("calls")
        return cls(
            tuple(Call(**{**call, "disguises": tuple(call.get("disguises", ("", "")))}) for call in calls), **given
        )


def programs(
    randoms: random.Random, kind: str, dtype: str, draws: int, pool: int, refuses: Callable[[Call], bool]
) -> Any:
    """Programs with that many calls of one class in all; `refuses` says which draws to replace."""
    left = draws
    while left:
        size = min(left, randoms.choice([1, 4, 8, 16, 16]))
        left -= size
        calls = tuple(_accepted(randoms, kind, dtype, refuses) for _ in range(size))
        threads = randoms.choice([1] * 9 + [8])
        yield Program(calls, randoms.choice(["end", "end", "start"]), threads, pool)


def _accepted(randoms: random.Random, kind: str, dtype: str, refuses: Callable[[Call], bool]) -> Call:
    for _ in range(MOST_REFUSED):
        draw = randoms.choices((draw_convolution, draw_channels, draw_layer, draw_large), (600, 250, 146, 4))[0]
        (lhs, rhs), arguments = draw(randoms, kind, dtype)
        disguises = tuple(randoms.choice(DISGUISES) if randoms.random() < 0.05 else "" for _ in range(2))
        result = "float32" if dtype == "float32" else randoms.choice([dtype, "float32"])
        infinite = randoms.choice([0] * 9 + [3])
        call = Call(lhs, rhs, arguments, dtype, result, randoms.randrange(2**31), disguises, infinite)
        if call.kind == kind and not refuses(call):
            return call
    raise SystemExit(f"none of {MOST_REFUSED} draws of a {kind} in {dtype} is wanted")


def draw_convolution(randoms: random.Random, kind: str, dtype: str) -> Draw:
    """Small and odd: windows beyond the image, pads beyond the window, every layout."""
    rank = randoms.choice([1, 2, 2, 2, 3])
    longest = {1: 40, 2: 13, 3: 7}[rank]
    strides, dilation = _steps(randoms, kind, rank)
    # A window as large as the image is what a kernel gradient has.
    taps = [randoms.choice([1, 2, 3, 4, randoms.randint(1, longest if rank < 3 else 5)]) for _ in range(rank)]
    sizes, padding = _image(randoms, taps, dilation, dtype, longest)
    groups = randoms.choice([2, 3, 8, 21]) if "grouped" in kind else 1
    i, o = ([1, 2, 3, 4, 8] if groups > 1 else CHANNELS for _ in range(2))
    i, o = randoms.choice(i), randoms.choice(o)
    batch = randoms.choice([1, 2, 5])
    return _draw(randoms, batch, sizes, taps, i, o, groups, strides, padding, dilation)


def draw_channels(randoms: random.Random, kind: str, dtype: str) -> Draw:
    """Numbers of channels around the multiples of what a register or a block of the kernel holds."""
    rank = randoms.choice([1, 2, 2, 2, 3])
    longest = {1: 24, 2: 9, 3: 4}[rank]
    strides, dilation = _steps(randoms, kind, rank)
    taps = [randoms.choice([1, 1, 2, 3, 3, 4, 5, longest]) for _ in range(rank)]
    sizes, padding = _image(randoms, taps, dilation, dtype, longest)
    groups = randoms.choice([2, 3, 4]) if "grouped" in kind else 1

    def channels() -> int:
        block = randoms.choice([8, 16, 32, 64])
        return max(1, block * randoms.randint(1, (192 if groups == 1 else 64) // block) + randoms.choice([-1, 0, 0, 1]))

    i, o = channels(), randoms.choice([channels(), channels(), 1])
    return _draw(randoms, randoms.choice([1, 1, 2, 3]), sizes, taps, i, o, groups, strides, padding, dilation)


def draw_large(randoms: random.Random, kind: str, dtype: str) -> Draw:
    """Images of up to 2**24 elements, with few channels."""
    rank = randoms.choice([1, 2, 2, 3])
    strides, dilation = _steps(randoms, kind, rank)
    taps = [randoms.choice([1, 2, 3, 4]) for _ in range(rank)]
    groups = randoms.choice([2, 3]) if "grouped" in kind else 1
    i, o = randoms.randint(2 if groups > 1 else 1, 17), randoms.randint(1, 17)
    elements = 2 ** randoms.uniform(17, 24) / (i * groups)
    work = 2**28 / (i * o * groups * math.prod(taps)) * math.prod(strides)
    side = max(int(min(elements, work) ** (1 / rank)), 8)
    sizes = [max(1, int(side * randoms.uniform(0.6, 1.4))) + (k - 1) * d for k, d in zip(taps, dilation, strict=True)]
    padding = [
        (randoms.randint(0, (k - 1) * d), randoms.randint(0, (k - 1) * d)) for k, d in zip(taps, dilation, strict=True)
    ]
    return _draw(randoms, 1, sizes, taps, i, o, groups, strides, padding, dilation)


def draw_layer(randoms: random.Random, kind: str, dtype: str) -> Draw:
    """A real network's layer in one of its roles; images are reduced until the work is bearable."""
    layer = randoms.choice(LAYERS)
    rank = len(layer.size)
    role = randoms.choice(["forward", "backward", "input gradient", "kernel gradient"])
    steps = lambda word, own: (own if own > 1 else randoms.choice([2, 3])) if word in kind else 1  # noqa: E731
    groups = 1
    if "grouped" in kind:
        groups = layer.groups if layer.groups > 1 else randoms.choice([2, 4])
    batch, i, o = randoms.choice([1, 1, 2, 4]), -(-layer.inputs // groups), -(-layer.outputs // groups)
    if role in ("backward", "input gradient"):
        i, o = o, i
    taps, padding = list(layer.taps), [list(pads) for pads in layer.padding]
    stride, dilation = steps("strided", layer.stride), steps("dilated", layer.dilation)
    if role == "input gradient":  # of each phase, whose taps are every stride-th
        taps = [-(-k // layer.stride) for k in taps]
        padding = [[randoms.randint(0, (k - 1) * dilation), randoms.randint(0, (k - 1) * dilation)] for k in taps]
    budget = 2 * 10 ** randoms.choice([6, 6.5, 7, 7, 7.5])
    least = [max(1, (k - 1) * dilation + 1 - sum(pads)) for k, pads in zip(taps, padding, strict=True)]
    sizes = [max(n, m) for n, m in zip(layer.size, least, strict=True)]
    while True:
        outs = [
            (n + sum(pads) - (k - 1) * dilation - 1) // stride + 1
            for n, k, pads in zip(sizes, taps, padding, strict=True)
        ]
        if batch * math.prod(outs) * math.prod(taps) * i * o * groups * 2 <= budget or sizes == least:
            break
        sizes = [max(int(n / 1.4), m) for n, m in zip(sizes, least, strict=True)]
    most = budget / max(batch * math.prod(outs) * math.prod(taps) * 2, 1)
    while i * o * groups > most and max(i, o) > 8:
        i, o = max(-(-i // 2), 2), -(-o // 2)
    if role == "kernel gradient":
        # The cotangent is the window, as dilated as the layer was strided; what it gives is as large as the kernel.
        outs = [
            max(1, (n + sum(pads) - (k - 1) * stride - 1) // dilation + 1)
            for n, k, pads in zip(sizes, taps, padding, strict=True)
        ]
        padding = [
            (low, max(0, (k - 1) * stride + 1 + (out - 1) * dilation - n - low))
            for n, k, out, (low, _) in zip(sizes, taps, outs, padding, strict=True)
        ]
        spatial = "DHW"[3 - rank :]
        numbers = (f"C{spatial}N", f"I{spatial}O", f"{spatial}NC")
        # Of the call, the batch is the channels, and its inputs are the layer's batch.
        call_i = max(batch, 2) if groups > 1 else batch
        return _draw(randoms, i, sizes, outs, call_i, o, groups, [stride] * rank, padding, [dilation] * rank, numbers)
    steps_of = [stride] * rank, [tuple(pads) for pads in padding], [dilation] * rank
    spatial = "DHW"[3 - rank :]
    kernel = f"{spatial}IO" if role == "forward" else f"{spatial}OI"
    numbers = (f"N{spatial}C", kernel, f"N{spatial}C")
    return _draw(randoms, batch, sizes, taps, max(i, 2) if groups > 1 else i, o, groups, *steps_of, numbers)


def _steps(randoms: random.Random, kind: str, rank: int) -> tuple[list[int], list[int]]:
    some = lambda word, values: [randoms.choice(values if word in kind else [1]) for _ in range(rank)]  # noqa: E731
    return some("strided", [1, 2, 3, 5]), some("dilated", [1, 2, 3])


def _image(randoms: random.Random, taps: Any, dilation: Any, dtype: str, longest: int) -> tuple[Any, Any]:
    """Sizes and pads. In bfloat16 all windows reach into the image."""
    sizes, padding = [], []
    for extent in ((k - 1) * d + 1 for k, d in zip(taps, dilation, strict=True)):
        most = extent + 2 if dtype == "float32" else extent - 1
        pads = randoms.randint(0, most), randoms.randint(0, most)
        padding.append(randoms.choice([pads, (0, 0)]))
        least = max(1, extent - sum(padding[-1])) if dtype == "float32" else extent
        sizes.append(randoms.choice([least, randoms.randint(least, least + longest)]))
    return sizes, padding


def _draw(
    randoms: random.Random,
    batch: int,
    sizes: Any,
    taps: Any,
    inputs: int,
    outputs: int,
    groups: int,
    strides: Any,
    padding: Any,
    dilation: Any,
    numbers: tuple[str, str, str] | None = None,
) -> Draw:
    """Shapes and arguments; `inputs` and `outputs` are those of a group. Without `numbers`, of any layout."""
    rank = len(taps)
    spatial = "DHW"[3 - rank :]
    if numbers is None:
        # Other images than these are copied first, into memory that XLA shares among a program's temporaries.
        images = randoms.choice([f"N{spatial}C"] * 4 + [f"C{spatial}N"])
        kernel = randoms.choice([f"{spatial}IO", f"{spatial}OI", f"I{spatial}O"])
        numbers = images, kernel, randoms.choice([f"N{spatial}C"] * 4 + [f"{spatial}NC"])
    window = {"I": inputs, "O": outputs * groups, **dict(zip(spatial, taps, strict=True))}
    image = {"N": batch, "C": inputs * groups, **dict(zip(spatial, sizes, strict=True))}
    shapes = tuple(image[axis] for axis in numbers[0]), tuple(window[axis] for axis in numbers[1])
    return shapes, dict(
        window_strides=list(strides),
        padding=[tuple(pads) for pads in padding],
        rhs_dilation=list(dilation),
        dimension_numbers=tuple(numbers),
        feature_group_count=groups,
    )
