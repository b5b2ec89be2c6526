"""`python -m benchmarks plan`: times every way to compute the committed problems on this CPU.

Each processor has a file. A run that is stopped goes on where it was. `--fit` reports on the files: what the rules
cost, over the best candidate. `--check` compares that with the limits committed in `benchmarks/plan/limits.json`.
Neither times anything.
"""

import argparse
import fnmatch
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from jaxlib import version
from tqdm import tqdm  # type: ignore[import-untyped]

from jdeconv._engine.device import device_kind, threads
from jdeconv._engine.engine import cpu_engine_kind

from .. import machine
from . import problems, regret, timing, timings
from .problems import Item

LIMITS = "limits.json"
"""In the folder that holds the files' folder."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--fit", action="store_true", help="report on the files: regret of the rules, in Markdown")
    what.add_argument("--check", action="store_true", help="exit with 1 if the regret on a file exceeds its limit")
    parser.add_argument("--only", default="*", metavar="GLOB", help="problems of such names, as in 'dcgan*/kernel/*'")
    parser.add_argument("--dtype", help="problems with operands of this dtype")
    parser.add_argument("--budget-s", type=float, default=float("inf"), help="start no problem after so many seconds")
    parser.add_argument("--threads", type=int, help="processors to run on (default: all that this process may use)")
    parser.add_argument("--folder", type=pathlib.Path, default=timings.FOLDER, help="of the files (%(default)s)")
    return parser


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    items = [
        item
        for item in problems.read()
        if fnmatch.fnmatch(item.name, options.only) and options.dtype in (None, item.operands)
    ]
    if not items:
        print("no problem has such a name and dtype")
        return 2
    try:
        if options.fit or options.check:
            return _report(items, options)
        if options.threads and options.threads != threads():
            return _with_threads(options.threads, arguments)
        return _time(items, options)
    except timings.Foreign as error:
        print(error)
        return 2


def _report(items: list[Item], options: argparse.Namespace) -> int:
    files = [regret.found(path.stem, timings.load(path), items) for path in sorted(options.folder.glob("*.json"))]
    if options.fit:
        print(regret.markdown(files))
        return 0
    wrong = regret.excesses(files, json.loads((options.folder.parent / LIMITS).read_text(encoding="utf-8")))
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def _with_threads(count: int, arguments: Sequence[str]) -> int:
    """Runs the command in a process that may use so many processors: XLA takes its threads' number from them once."""
    allowed = os.sched_getaffinity(0)
    if count > len(allowed):
        print(f"--threads={count}: this process may use {len(allowed)} processors; expected at most as many")
        return 2
    os.sched_setaffinity(0, sorted(allowed)[:count])  # the child inherits it
    try:
        return subprocess.run([sys.executable, "-m", "benchmarks", "plan", *arguments], check=False).returncode
    finally:
        os.sched_setaffinity(0, allowed)


def here(items: Sequence[Item]) -> dict[str, Any]:
    """What the times depend on."""
    engines = {item.problem.dtype: str(cpu_engine_kind(item.problem)) for item in items}
    return {
        "device": device_kind("cpu"),
        "jaxlib": version.__version__,
        "engines": engines,
    }


def _time(items: list[Item], options: argparse.Namespace) -> int:
    machine.use("cpu")
    machine.keep_memory()
    committed = problems.read()
    facts = here(committed)
    path = options.folder / timings.file_name(facts)
    kept = timings.resumed(path, facts, committed)
    left = [item for item in items if not kept.has(item)]
    print(f"{path}: {len(items) - len(left)} of {len(items)} problems are timed")
    end, wrong = time.monotonic() + options.budget_s, False
    with tqdm(left, unit="problem") as progress:
        for item in progress:
            if time.monotonic() > end:
                progress.write("the budget is spent: the same command goes on from here")
                break
            progress.set_description(item.name)
            found = timing.measured(item)
            for way, taken in found.items():
                if taken.note.startswith(("wrong", "refused")):
                    progress.write(f"{item.name}, {way}: {taken.note}", file=sys.stderr)
                    wrong = True
            kept.add(item, found)
            kept.save(path)
    return 1 if wrong else 0
