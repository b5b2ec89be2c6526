"""`python -m benchmarks tpu-pallas`: the Pallas kernel's forward pass beside lax's, as the TPU's compiler has them.

Nothing runs. For the kernel: the bundles of its schedule times their trips, a cycle each, and what the compiler
estimates for the rest of its program. For lax and for what `auto` would take without the kernel: estimated cycles.
Neither counts waiting for memory; the bytes tell of it. They are what the kernel copies from and to HBM, and what the
phase formulation's program accesses, over the bytes of input, filter and output.
"""

import argparse
import fnmatch
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from tqdm import tqdm  # type: ignore[import-untyped]

from jdeconv._formulations import METHODS
from jdeconv._plan import tpu_tiles
from jdeconv._plan.problem import Problem

from ..report import number, table
from ..report.summary import geometric_mean
from ..work.cases import CASES, Case, sweep
from . import tpu_program
from .tpu_bundles import issue_cycles
from .tpu_cycles import cycles

PALLAS = "pallas"


class Row(NamedTuple):
    """One case's cycles and, over the bytes that must be moved, the bytes that are."""

    case: str
    label: str
    lax: int
    other: str
    """What `auto` takes without the kernel."""
    other_cycles: int
    kernel: int
    outside: int
    kernel_bytes: float
    phase_bytes: float | None

    @property
    def total(self) -> int:
        return self.kernel + self.outside


def parser() -> argparse.ArgumentParser:
    return tpu_program.parser("tpu-pallas", __doc__, "the random geometries instead of the named cases")


def refusal(case: Case, dtype: str) -> str | None:
    """Why there is no kernel for the case."""
    problem = tpu_program.problem_of(case, "output", dtype)
    if reason := METHODS[PALLAS].supports(problem):
        return reason
    tile = tpu_tiles.tiles_for(problem)
    return tile if isinstance(tile, str) else None


def kernel_bytes(problem: Problem) -> float:
    """What the kernel copies between HBM and VMEM, over input, filter and output."""
    tile = tpu_tiles.tiles_for(problem)
    assert not isinstance(tile, str)
    return tpu_tiles.copied_ratio(tile, tpu_tiles.default_call(problem))


def measure(case: Case, dtype: str, topology: str, dumped: pathlib.Path) -> Row:
    chip, problem = tpu_program.CHIPS[topology], tpu_program.problem_of(case, "output", dtype)
    for path in dumped.iterdir():
        path.unlink()
    outside = cycles(tpu_program.compiled(case, PALLAS, "output", dtype, topology), chip).total
    (schedule,) = dumped.glob("*transpose_conv*[0-9]-final_bundles.txt")
    kernel = issue_cycles(schedule.read_text(encoding="utf-8"))
    other = tpu_program.without_kernel(problem).method
    lax = cycles(tpu_program.compiled(case, tpu_program.LAX, "output", dtype, topology), chip).total
    others = lax if other == "lax" else cycles(tpu_program.compiled(case, other, "output", dtype, topology), chip).total
    moved = None
    if case.kind != "sweep" and not tpu_program.refusal(case, "phase", "output"):  # of many phases it compiles long
        needed = case.elements * (2 if dtype == "bfloat16" else 4)
        costs = tpu_program.program(case, "phase", "output", dtype, topology).cost_analysis()
        assert costs is not None
        moved = costs["bytes accessed"] / needed
    return Row(case.name, case.label, lax, other, others, kernel, outside, kernel_bytes(problem), moved)


def markdown(heading: str, rows: Sequence[Row], refused: Sequence[tuple[str, str]]) -> str:
    cells = [
        (
            f"{row.case}: {row.label}", number(row.lax / 1000), f"{row.other} {number(row.other_cycles / 1000)}",
            number(row.kernel / 1000), number(row.outside / 1000), number(row.total / row.lax),
            number(row.kernel_bytes), number(row.phase_bytes),
        )
        for row in rows
    ]  # fmt: skip
    head = (
        "kilocycles", "lax", "auto without", "kernel", "outside", "times lax's", "kernel's bytes", "phase's bytes"
    )  # fmt: skip
    parts = ["# The Pallas kernel on TPU: forward", f"{heading}. No times: nothing ran.", table(head, cells)]
    if rows:
        ratios = [row.total / row.lax for row in rows]
        parts.append(
            f"Of lax's cycles: geometric mean {number(geometric_mean(ratios))}, at most {number(max(ratios))}."
        )
    if refused:
        parts += ["## Not compiled", "\n".join(f"- {name}: {reason}" for name, reason in refused)]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    dumped = pathlib.Path(tempfile.mkdtemp())
    os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={dumped} --xla_jf_dump_llo_text=true"
    try:
        try:
            tpu_program.topology(options.topology)
        except ModuleNotFoundError as error:
            print(f"{error.name} is not installed; it is the TPU's compiler: pip install 'jdeconv[tpu-aot]'")
            return 2
        drawn = sweep() if options.sweep else CASES
        cases = [case for case in drawn if fnmatch.fnmatch(case.name, options.cases)]
        refused = [(case.name, reason) for case in cases if (reason := refusal(case, options.dtype))]
        names = {name for name, _ in refused}
        rows = []
        with tqdm([case for case in cases if case.name not in names], unit="case") as progress:
            for case in progress:
                progress.set_description(case.name)
                rows.append(measure(case, options.dtype, options.topology, dumped))
                progress.write(str(rows[-1]))
    finally:
        shutil.rmtree(dumped)
    written = markdown(f"{options.topology}, {options.dtype}", rows, refused)
    print(written)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "tpu-pallas.md").write_text(written, encoding="utf-8")
    facts = {"topology": options.topology, "dtype": options.dtype, "rows": [row._asdict() for row in rows]}
    (options.out / "tpu-pallas.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    print(f"written to {options.out}")
    return 0
