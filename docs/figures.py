"""The pages' drawings as SVG, made from jdeconv's own geometry and the README's figures."""

import math
import re
from collections.abc import Callable, Iterable

from jdeconv._geometry import Geometry, build

CELL = 26
GUTTER = 60  # for the label at the left of a row
SCALE = 1.3


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'


def cell(kind: str, x: float, y: float, text: object = "") -> str:
    """A pixel whose centre is at x."""
    square = f'<rect class="cell {kind}" x="{x - 11:g}" y="{y:g}" width="22" height="22" rx="3"/>'
    return square + (label("", x, y + 15, text) if text != "" else "")


def label(kind: str, x: float, y: float, text: object) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{text}</text>'


def svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    box = f'viewBox="0 0 {width:g} {height:g}" style="min-width: {0.7 * width:g}px; max-width: {SCALE * width:g}px"'
    return f'<svg {box} role="img" aria-label="{title}">{"".join(parts)}</svg>'


def joins(g: Geometry) -> list[tuple[int, int, int]]:
    """(input position, tap, output position) in one dimension, cut output positions included."""
    (size,), (kernel,), (stride,), (dilation,), (low,) = g.input, g.kernel, g.strides, g.dilations, g.low
    return [(p, t, p * stride + t * dilation - low) for p in range(size) for t in range(kernel)]


def taps(g: Geometry) -> list[int]:
    """How many taps reach each output position."""
    reached = [q for _, _, q in joins(g)]
    return [reached.count(q) for q in range(g.output[0])]


def fan(g: Geometry, top: float, first: int, color: Callable[[int], int] = lambda t: t) -> list[str]:
    """Input pixels above output pixels, with a coloured line for each tap; `first` is the leftmost position."""
    (size,), (stride,), (low,), (reach,) = g.input, g.strides, g.low, g.extent
    outputs = range(g.output[0])
    below = top + 95

    def input_x(p: int) -> float:
        return x(p * stride - low + (reach - 1) / 2 - first)

    parts = [label("row", 0, top + 15, "input"), label("row", 0, below + 15, "output")]
    parts += [
        line(f"join tap-{color(t)}{'' if q in outputs else ' cut'}", input_x(p), top + 22, x(q - first), below)
        for p, t, q in joins(g)
    ]
    parts += [cell("", input_x(p), top, p) for p in range(size)]
    parts += [cell("cut", x(q - first), below) for q in sorted({q for _, _, q in joins(g)} - set(outputs))]
    parts += [cell("" if count else "unreached", x(q - first), below, q) for q, count in enumerate(taps(g))]
    return parts


def x(place: float) -> float:
    """The centre of a pixel, counted from the gutter."""
    return GUTTER + (place + 0.5) * CELL


def edges(g: Geometry) -> tuple[int, int]:
    """The first and the last drawn position."""
    places = [0, g.output[0] - 1, *(q for _, _, q in joins(g))]
    return min(places), max(places)


def one(title: str, g: Geometry) -> str:
    """One geometry, with the taps of each output pixel."""
    first, last = edges(g)
    counts = [label("", x(q - first), 140, count) for q, count in enumerate(taps(g))]
    return svg(x(last - first + 0.5), 146, title, [*fan(g, 2, first), label("row", 0, 140, "taps"), *counts])


def both_sizes() -> str:
    """The two output sizes that belong to one input size."""
    sizes = [build((3,), (3,), (2,), (1,), "SAME", (size,)) for size in (5, 6)]
    first, last = min(edges(g)[0] for g in sizes), max(edges(g)[1] for g in sizes)
    parts = [part for row, g in enumerate(sizes) for part in fan(g, 2 + 150 * row, first)]
    return svg(x(last - first + 0.5), 274, "Outputs of 5 and of 6 pixels from the same 3 input pixels", parts)


def phases() -> str:
    """Kernel 4, stride 2: even outputs see taps 0 and 2, odd ones 1 and 3, each a convolution of stride 1."""
    g = build((4,), (4,), (2,), (1,), "VALID")
    parts = fan(g, 2, 0, lambda t: t % 2)
    for phase in range(2):
        top = 180 + 160 * phase
        parts += [label("row", 0, top - 14, f"phase {phase}: taps {phase} and {phase + 2}, stride 1")]
        parts += [label("row", 0, top + 15, "input"), label("row", 0, top + 110, "output")]
        for p in range(4):
            parts += [line(f"join tap-{phase}", x(p + 0.5), top + 22, x(p + t), top + 95) for t in range(2)]
            parts.append(cell("", x(p + 0.5), top, p))
        parts += [cell(f"tapped tap-{phase}", x(q), top + 95, 2 * q + phase) for q in range(5)]
    parts += [label("row", 0, 501, "together")]
    parts += [cell(f"tapped tap-{q % 2}", x(q), 486, q) for q in range(g.output[0])]
    return svg(x(g.output[0] - 0.5), 512, "A kernel of 4 taps at stride 2 as two kernels of 2 taps at stride 1", parts)


def checkerboard() -> str:
    """Taps per pixel for kernels 3 and 4 at stride 2."""
    parts = []
    for index, kernel in enumerate((3, 4)):
        counts = taps(build((6,), (kernel,), (2,), (1,), "SAME"))
        left = index * 260
        parts.append(label("row", left, 12, f"kernel {kernel}, stride 2"))
        for i, row in enumerate(counts):
            for j, column in enumerate(counts):
                shade = row * column / max(counts) ** 2
                parts.append(
                    f'<rect class="shade" x="{left + 18 * j}" y="{20 + 18 * i}" width="18" height="18" '
                    f'style="opacity: {shade:.3f}"/>' + label("", left + 18 * j + 9, 33 + 18 * i, row * column)
                )
    return svg(480, 240, "Taps that reach each output pixel: uneven for kernel 3, even for kernel 4", parts)


def speed(page: str) -> str:
    """The table of single transposed convolutions: how many times longer the peers take."""
    (table,) = re.findall(r"^\| N, H = W.*\n(?:\|.*\n)+", page, flags=re.M)
    head, _, *rows = [[entry.strip() for entry in row.strip("|").split("|")] for row in table.splitlines()]
    peers = head[2:]
    left, width, step = 190, 720, 22
    ratios = [[float(*re.findall(r"\(([\d.]+)x\)", entry)) for entry in row[2:]] for row in rows]
    low, high = math.log2(0.5), math.log2(max(map(max, ratios)) * 1.15)

    def ratio_x(ratio: float) -> float:
        return left + (math.log2(ratio) - low) / (high - low) * (width - left - 10)

    bottom = 40 + step * len(rows)
    parts = [label(f"row tap-{i}", left + 130 * i + 12, 12, peer) for i, peer in enumerate(peers)]
    parts += [f'<circle class="mark tap-{i}" cx="{left + 130 * i}" cy="8" r="5"/>' for i in range(len(peers))]
    ticks = [2.0**n for n in range(-1, math.floor(high) + 1)]
    parts += [
        line("axis one" if tick == 1 else "axis", ratio_x(tick), 24, ratio_x(tick), bottom - 10) for tick in ticks
    ]
    parts += [label("", ratio_x(tick), bottom + 4, f"{tick:g}x") for tick in ticks]
    for number, (row, own) in enumerate(zip(rows, ratios, strict=True)):
        y = 36 + step * number
        parts.append(label("end", left - 10, y + 4, row[0]))
        parts += [f'<circle class="mark tap-{i}" cx="{ratio_x(r):.1f}" cy="{y}" r="5"/>' for i, r in enumerate(own)]
    return svg(width, bottom + 10, "A training step: how many times longer than jdeconv's", parts)


FIGURES: dict[str, Callable[[str], str]] = {
    "same": lambda _: one("SAME: kernel 3, stride 2, 3 pixels to 6", build((3,), (3,), (2,), (1,), "SAME")),
    "valid": lambda _: one("VALID: kernel 3, stride 2, 3 pixels to 7", build((3,), (3,), (2,), (1,), "VALID")),
    "explicit": lambda _: one("Padding (1, 2): 3 pixels to 4", build((3,), (3,), (2,), (1,), ((1, 2),))),
    "unreached": lambda _: one("Stride 3 beyond kernel 2: zeros", build((3,), (2,), (3,), (1,), "SAME")),
    "dilation": lambda _: one("Dilation 2: 3 pixels to 9", build((3,), (3,), (2,), (2,), "VALID")),
    "both-sizes": lambda _: both_sizes(),
    "phases": lambda _: phases(),
    "checkerboard": lambda _: checkerboard(),
    "speed": speed,
}
