"""The measurements as Markdown tables, which are plain enough for a terminal, and as JSON."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from ..measure import Record
from ..peers import SUBJECT
from ..work.cases import PASSES
from .summary import TARGETS, TORCH, geometric_mean, of_each, of_target, ratios

PLAIN = "flax"  # the peer that runs whole models in plain JAX
KINDS = {
    "cases": "Cases",
    "ordinary": "Ordinary convolutions",
    "sweep": "Random sweep",
    "stacks": "Whole stacks",
    "models": "Whole models",
    "vmap": "vmap over both operands",
    "growth": "Growth",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        f"| {row[0].ljust(widths[0])} | {' | '.join(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))} |"
        for row in (head, *rows)
    ]
    lines.insert(1, f"|{'-' * (widths[0] + 2)}|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def targets(records: Sequence[Record]) -> str:
    rows = []
    for target in TARGETS:
        for kind in (kind for kind in KINDS if kind != "models"):  # which have a table of their own
            found = of_target([record for record in records if record.kind == kind], target)
            if found:
                what = f"{target.pass_}, {target.dtype}{', groups' if target.grouped else ''}"
                counted = number(found.mean), number(found.least), found.worst, str(found.cases)
                rows.append((f"{KINDS[kind]}: {what}", target.text, *counted))
    return table(("", "against", "geometric mean", "least", "in", "cases"), rows)


def per_peer(records: Sequence[Record]) -> str:
    rows = []
    for dtype, pass_ in _unique((record.dtype, record.pass_) for record in records):
        for peer in _unique(record.peer for record in records if record.peer != SUBJECT):
            chosen = [r for r in records if (r.dtype, r.pass_) == (dtype, pass_) and r.kind in ("cases", "sweep")]
            if found := ratios(chosen, (peer,)):
                counted = number(found.mean), number(found.least), found.worst, str(found.cases)
                rows.append((f"{peer}, {pass_}, {dtype}", *counted))
    return table(("peer", "geometric mean", "least", "in", "cases"), rows)


def medians(records: Sequence[Record]) -> str:
    """Rows are cases, columns peers: milliseconds, and how many times jdeconv's."""
    timed = [record for record in records if record.ms is not None]
    peers = _unique(record.peer for record in timed)
    found = {(record.name, record.peer): record for record in timed}
    rows = []
    for name, label in _unique((record.name, record.label) for record in timed):
        ours = found.get((name, SUBJECT))
        cells = []
        for peer in peers:
            record = found.get((name, peer))
            text = number(record.ms if record else None)
            if record and ours and ours.ms and record.ms and peer != SUBJECT:
                text += f" ({number(record.ms / ours.ms)}x)"
            cells.append(text)
        rows.append((f"{name}: {label}", *cells))
    return table(("ms (times jdeconv's)", *peers), rows)


def models(records: Sequence[Record]) -> str:
    """Rows are models: ms of a step in each framework, and how many times the patched one's; the same of compiling."""
    ours = {record.name: record.ms for record in records if record.peer == SUBJECT and record.ms}
    ratios = {
        "plain JAX": of_each(records, (PLAIN,)),
        "PyTorch": of_each(records, TORCH),
        "TensorFlow": of_each(records, ("tensorflow",)),
        "to compile: patched / plain JAX": _compiling(records),
    }

    def cells(ms: str, shown: Sequence[str]) -> tuple[str, ...]:
        plain, *others = shown
        return plain, ms, *others

    rows = []
    for name in _unique(record.name for record in records):
        *steps, compiling = (column.get(name) for column in ratios.values())
        each = [f"{number(ours[name] * ratio)} ({number(ratio)}x)" if ratio else "-" for ratio in steps]
        rows.append((name, *cells(number(ours.get(name)), [*each, number(compiling)])))
    for title, summed in (("geometric mean", geometric_mean), ("least", min), ("most", max)):
        found = [number(summed(list(column.values()))) + "x" if column else "-" for column in ratios.values()]
        rows.append((title, *cells("", found)))
    return table(("model", *cells("under `patch()`", list(ratios))), rows)


def _compiling(records: Sequence[Record]) -> dict[str, float]:
    """Of each model: how many times plain JAX's seconds to trace and compile jdeconv's are."""
    taken = {(record.name, record.peer): record.costs.compile_s for record in records if record.costs}
    both = {name for name, peer in taken if peer == SUBJECT} & {name for name, peer in taken if peer == PLAIN}
    return {name: taken[name, SUBJECT] / taken[name, PLAIN] for name in both}


def growth(records: Sequence[Record]) -> str:
    rows = []
    for name, label, dtype in _unique((record.name, record.label, record.dtype) for record in records):
        found = {r.pass_: r for r in records if (r.name, r.dtype) == (name, dtype) and r.peer == SUBJECT}
        each = [(found[pass_].ms or 0) * 1e6 / found[pass_].outputs if pass_ in found else None for pass_ in PASSES]
        rows.append((f"{name}: {label}, {dtype}", *map(number, each)))
    return table(("ns per output element", *PASSES), rows)


def costs(records: Sequence[Record]) -> str:
    """Of the JAX programs: MiB allocated beside arguments and results, and seconds to trace and compile."""
    known = [record for record in records if record.costs]
    peers = _unique(record.peer for record in known)
    found = {(record.name, record.dtype, record.pass_, record.peer): record.costs for record in known}
    rows = []
    for case in _unique((record.name, record.dtype, record.pass_) for record in known):
        cells = []
        for peer in peers:
            cost = found.get((*case, peer))
            memory = None if cost is None or cost.temp_bytes is None else cost.temp_bytes / 2**20
            cells.append(f"{number(memory)}, {number(cost.compile_s if cost else None)}")
        rows.append((", ".join(case), *cells))
    return table(("temporary MiB, seconds to compile", *peers), rows)


def markdown(machine: dict[str, Any], records: Sequence[Record], with_costs: bool = False) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    peaks = ", ".join(f"{value:.0f} GFLOP/s in {dtype}" for dtype, value in machine["peak"].items())
    settings = "".join(f" {name}={value}." for name, value in machine["environment"].items())
    parts = [
        "# Transposed convolution: jdeconv and its peers",
        f"{machine['device']}, {machine['processor']}, {machine['threads']} threads for each peer. Python "
        f"{machine['python']}, {versions}. Matrix product: {peaks}.{settings}",
        "Medians of interleaved rounds, after all results were checked against lax in float32. Above 1, jdeconv is "
        "faster. *train* is the value and both gradients for a given cotangent; for stacks and models, a whole step. A "
        "model in jdeconv is the very Flax model of *flax*, plain JAX, under `jdeconv.patch()`.",
    ]
    parts += ["## Targets", targets(records), "## Each peer, over cases and sweep", per_peer(records)]
    for kind, title in KINDS.items():
        chosen = [record for record in records if record.kind == kind]
        for dtype, pass_ in _unique((record.dtype, record.pass_) for record in chosen):
            shown = [record for record in chosen if (record.dtype, record.pass_) == (dtype, pass_)]
            parts += [f"## {title}: {pass_}, {dtype}", medians(shown)]
        if kind == "models" and chosen:
            parts += ["## Whole models: one training step in ms (times the step under `patch()`)", models(chosen)]
        if kind == "growth" and chosen:
            parts += ["## Growth: time per output element", growth(chosen)]
    if with_costs:
        parts += ["## Costs of the JAX programs", costs(records)]
    refused = _unique(
        f"- {record.peer}, {record.dtype}, {record.pass_}: {record.reason}"
        for record in records
        if record.reason and not record.wrong
    )
    if refused:
        parts += ["## Not asked", "\n".join(refused)]
    if wrong := wrongs(records):
        parts += ["## Wrong, so not timed", "\n".join(f"- {line}" for line in wrong)]
    return "\n\n".join(parts) + "\n"


def wrongs(records: Iterable[Record]) -> list[str]:
    return [f"{r.name}, {r.dtype}, {r.pass_}, {r.peer}: {r.reason}" for r in records if r.wrong]


def as_json(machine: dict[str, Any], records: Sequence[Record], definition: Sequence[Any] = ()) -> str:
    """`definition` is what `definition.as_data` makes."""
    rows = [
        {**dataclasses.asdict(record), "costs": record.costs._asdict() if record.costs else None} for record in records
    ]
    found = {"machine": machine, "records": rows, "definition": definition}
    return json.dumps(found, indent=1, ensure_ascii=False)
