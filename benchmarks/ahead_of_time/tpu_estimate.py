"""`python -m benchmarks tpu-estimate`: the cycles that the TPU compiler estimates, jdeconv beside lax.conv_transpose.

Nothing runs: programs are compiled ahead of time, with no TPU, by `pip install 'jdeconv[tpu-aot]'`. An estimate is no
time: it ranks ways to compute the same thing on one chip. Movement that the compiler leaves unpriced is charged alike
for both. lax.conv_transpose has no groups: there lax is the convolution that it would call. The compiler estimates
nothing in a Pallas kernel, so `auto` is here what it takes without that kernel, and `tpu-pallas` counts the kernel. A
program on which the compiler aborts or takes too long (some of lax's own) is listed and left out.
"""

import argparse
import contextlib
import fnmatch
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tqdm import tqdm  # type: ignore[import-untyped]

from jdeconv._formulations import METHODS

from ..report import number, table
from ..report.summary import geometric_mean
from ..work.cases import CASES, Case, sweep
from . import tpu_program
from .aside import Aside, Stopped
from .tpu_cycles import Cycles, cycles

AUTO = "auto"
TOTAL = "sum"
LIMIT = 1.02


class Estimate(NamedTuple):
    """One program's estimate, or why there is none."""

    case: str
    method: str
    result: str  # 'output', 'input', 'kernel', or the sum of the three
    cycles: int | None
    charged: int | None = None
    reason: str | None = None


def parser() -> argparse.ArgumentParser:
    parser = tpu_program.parser("tpu-estimate", __doc__, "the random geometries too")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one program; default: %(default)s")
    parser.add_argument("--auto", action="store_true", help="only what jdeconv chooses, not each of its methods")
    return parser


def estimates(
    case: Case, methods: Iterable[str], dtype: str, topology: str, compiled: Callable[..., str]
) -> Iterator[Estimate]:
    """Each result by each method, and the sum where all three are there; `compiled` gives a program's text."""
    lax: dict[str, Cycles] = {}
    for method in methods:
        found: list[Cycles] = []
        for result in tpu_program.RESULTS:
            if reason := tpu_program.refusal(case, method, result):
                yield Estimate(case.name, method, result, None, reason=reason)
                continue
            if method == AUTO and result in lax and tpu_program.as_lax(case, result, dtype):
                found.append(lax[result])
            else:
                try:
                    text = compiled(case, method, result, dtype, topology)
                except Stopped as stopped:
                    yield Estimate(case.name, method, result, None, reason=f"the compiler {stopped}")
                    continue
                found.append(cycles(text, tpu_program.CHIPS[topology]))
            if method == tpu_program.LAX:
                lax[result] = found[-1]
            yield Estimate(case.name, method, result, found[-1].total, found[-1].charged)
        if len(found) == len(tpu_program.RESULTS):
            total, charged = sum(one.total for one in found), sum(one.charged for one in found)
            yield Estimate(case.name, method, TOTAL, total, charged)


def ratios(found: Sequence[Estimate], method: str, result: str) -> dict[str, float]:
    """Case by case, the method's cycles over lax's."""
    here = {(e.case, e.method): e.cycles for e in found if e.result == result and e.cycles}
    return {
        case: ours / theirs
        for (case, name), ours in here.items()
        if name == method and (theirs := here.get((case, tpu_program.LAX)))
    }


def summary(found: Sequence[Estimate], methods: Iterable[str]) -> str:
    rows = []
    for method in methods:
        for result in (*tpu_program.RESULTS, TOTAL):
            if over_lax := ratios(found, method, result):
                worst = max(over_lax, key=lambda case: over_lax[case])
                above = sum(ratio > LIMIT for ratio in over_lax.values())
                counted = number(geometric_mean(list(over_lax.values()))), number(over_lax[worst]), worst
                rows.append((f"{method}: {result}", *counted, str(above), str(len(over_lax))))
    return table(("of lax's cycles", "geometric mean", "worst", "in", f"above {LIMIT}", "cases"), rows)


def per_case(found: Sequence[Estimate], cases: Iterable[Case], methods: Sequence[str], result: str) -> str:
    """Thousands of cycles, and how many times lax's."""
    over_lax = {method: ratios(found, method, result) for method in methods}
    here = {(e.case, e.method): e.cycles for e in found if e.result == result}
    rows = []
    for case in cases:
        cells = []
        for method in (tpu_program.LAX, *methods):
            counted = here.get((case.name, method))
            text = number(counted / 1000 if counted else None)
            if case.name in over_lax.get(method, {}):
                text += f" ({number(over_lax[method][case.name])}x)"
            cells.append(text)
        rows.append((f"{case.name}: {case.label}", *cells))
    return table(("kilocycles (times lax's)", tpu_program.LAX, *methods), rows)


def markdown(
    heading: str, found: Sequence[Estimate], kinds: Mapping[str, Sequence[Case]], methods: Sequence[str]
) -> str:
    parts = [
        "# Transposed convolution on TPU: estimated cycles",
        f"{heading}. The compiler's estimate, never a time; movement that it leaves unpriced is charged. Below 1, "
        "jdeconv takes fewer. *output* is the forward pass, *input* and *kernel* are the gradients, a program each.",
    ]
    for kind, cases in kinds.items():
        chosen = [estimate for estimate in found if estimate.case in {case.name for case in cases}]
        parts += [f"## {kind}: summary", summary(chosen, methods)]
        for result in (*tpu_program.RESULTS, TOTAL):
            parts += [f"## {kind}: {result}", per_case(chosen, cases, methods, result)]
    if refused := [f"- {e.case}, {e.method}, {e.result}: {e.reason}" for e in found if e.reason]:
        parts += ["## Not compiled", "\n".join(refused)]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    try:
        tpu_program.topology(options.topology)
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed; it is the TPU's compiler: pip install 'jdeconv[tpu-aot]'")
        return 2
    drawn = {"Cases": CASES, **({"Random sweep": sweep()} if options.sweep else {})}
    kinds = {kind: [case for case in all_ if fnmatch.fnmatch(case.name, options.cases)] for kind, all_ in drawn.items()}
    kinds = {kind: cases for kind, cases in kinds.items() if cases}
    if not kinds:
        print("nothing has such a name")
        return 2
    # The compiler estimates nothing inside a Pallas kernel: `tpu-pallas` counts that.
    methods = [AUTO] if options.auto else [AUTO, *(name for name in METHODS if name != "pallas")]
    found: list[Estimate] = []
    aside = Aside(options.limit)
    compiled = functools.partial(aside, tpu_program.compiled)
    # Left to Python's end, it would be told to end itself, of which the compiler prints a trace.
    with contextlib.closing(aside), tqdm([case for cases in kinds.values() for case in cases], unit="case") as progress:
        for case in progress:
            progress.set_description(case.name)
            found += estimates(case, (tpu_program.LAX, *methods), options.dtype, options.topology, compiled)
    heading = f"{options.topology}, {options.dtype}"
    written = markdown(heading, found, kinds, methods)
    print(written)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "tpu-estimate.md").write_text(written, encoding="utf-8")
    rows = [estimate._asdict() for estimate in found]
    facts = {"topology": options.topology, "dtype": options.dtype, "estimates": rows}
    (options.out / "tpu-estimate.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    print(f"written to {options.out}")
    return 0
