"""`python tests/engine/proof --jaxlib 0.12.0.1 --draws 20000 --seed 1`."""

import argparse
import pathlib
import sys
import time

if __package__ in (None, ""):  # run as a folder
    sys.path[0] = str(pathlib.Path(__file__).parents[1])

from tqdm import tqdm

from proof import environments, report
from proof.draws import CLASSES, KINDS, METHODS
from proof.processes import Setting, Workers

BATCH = 50  # draws
POOLS = (2, 8, 1, 4)  # threads that XLA gives oneDNN: each in turn, for as long as a worker lives
ROUNDS = 2  # batches of each class before the next
EVIDENCE = environments.ROOT / "jdeconv/_engine/evidence.json"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/engine/proof", description=__doc__)
    add = parser.add_argument
    add("--jaxlib", metavar="VERSION", help="another than the running interpreter's gets an environment of its own")
    add("--draws", type=int, default=1000, help="in all: each class gets as many (default 1000)")
    add("--seed", type=int, default=1)
    add(
        "--class", dest="kinds", action="append", choices=CLASSES, metavar="CLASS", help="'grouped strided convolution'"
    )
    add("--engine", choices=("onednn", "xla"), default="onednn", help="xla: jdeconv's own programs, oneDNN off")
    add("--dtype", choices=environments.NEEDED, default="float32")
    add("--isa", choices=environments.LIMITS, help="default: the best that the processor has")
    add(
        "--no-refusals",
        nargs="*",
        metavar="REASON",
        help="calls that jdeconv refuses for these reasons, and no others; without reasons, whatever is drawn",
    )
    add("--call", metavar="JSON", help="runs one program, as a finding names it")
    add("--environments", type=pathlib.Path, default=pathlib.Path.home() / ".cache/jdeconv/environments")
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("build/proof"),
        help="folder of the reports, from which a run resumes",
    )
    add("--record", action="store_true", help="adds the rows to jdeconv/_engine/evidence.json")
    add("--limit", type=float, default=120, metavar="SECONDS", help="a program that takes longer hangs (default 120)")
    add("--no-guard", action="store_true", help="without guard pages")
    asked = parser.parse_args(given)
    supported = environments.supported(asked.dtype)
    asked.isa = asked.isa or (supported or [None])[-1]
    if asked.engine == "xla":
        if asked.kinds or asked.record or asked.no_refusals is not None:
            parser.error("--engine xla has no classes, refusals and evidence")
        asked.kinds, asked.isa = METHODS, "xla"
    elif asked.isa not in supported:
        parser.error(f"--isa {asked.isa}: in {asked.dtype} this processor has {', '.join(supported) or 'none'}")
    if asked.record and asked.no_refusals is not None:
        parser.error("--record: what is drawn without refusals is no evidence")
    return asked


def main(given: list[str] | None = None) -> int:
    asked = arguments(given)
    if asked.jaxlib is None:
        import importlib.metadata

        asked.jaxlib = importlib.metadata.version("jaxlib")
    python = environments.interpreter(asked.jaxlib, asked.environments)
    setting = Setting(python, asked.jaxlib, asked.isa, asked.dtype, asked.limit, not asked.no_guard)
    workers = Workers(setting)
    try:
        if asked.call:
            found = workers.program(asked.call)
            print("\n".join(finding["what"] for finding in found) or "nothing wrong")
            return bool(found)
        return draw(asked, workers)
    finally:
        workers.close()


def draw(asked: argparse.Namespace, workers: Workers) -> int:
    kinds = asked.kinds or KINDS[asked.dtype]
    name = f"{asked.jaxlib}-{asked.isa}-{asked.dtype}-seed{asked.seed}"
    if asked.no_refusals is not None:
        name += "-".join(["-unrefused", *(reason.replace(" ", "_") for reason in asked.no_refusals)])
    state = report.State(
        asked.out / f"{name}.json",
        dict(
            jaxlib=asked.jaxlib,
            isa=asked.isa,
            dtype=asked.dtype,
            seed=asked.seed,
            refusals=asked.no_refusals,
            guarded=not asked.no_guard,
        ),
    )
    wanted = -(-asked.draws // len(kinds))
    done = sum(min(state.of(kind)["draws"], wanted) for kind in kinds)
    with tqdm(total=wanted * len(kinds), initial=done, unit="draw", smoothing=0.05) as bar:
        while left := [kind for kind in kinds if state.of(kind)["draws"] < wanted]:
            for kind in left:
                entry = state.of(kind)
                bar.set_postfix_str(f"{kind}, {len(state.findings)} findings")
                one_batch(asked, workers, kind, entry, min(BATCH, wanted - entry["draws"]), bar)
                state.save()
    for finding in state.findings:
        print(f"\n{finding['what']}\n{state.line(finding)}")
    print(f"\n{state.path.with_suffix('.md')}: {len(state.findings)} findings")
    if asked.record:
        report.record(EVIDENCE, [row for row in state.rows() if row["class"] in kinds])
    return bool(state.findings)


def one_batch(asked: argparse.Namespace, workers: Workers, kind: str, entry: dict, draws: int, bar: tqdm) -> None:
    number = entry["batches"]
    # A worker lives for a round of all classes and a few more.
    order = dict(
        kind=kind,
        dtype=asked.dtype,
        seed=asked.seed,
        batch=number,
        draws=draws,
        pool=POOLS[number // ROUNDS % len(POOLS)],
        refusals=asked.no_refusals,
    )
    start = time.monotonic()
    findings, refused = workers.batch(order, bar.update)
    entry["seconds"] = round(entry["seconds"] + time.monotonic() - start, 1)
    entry["batches"] += 1
    entry["draws"] += draws
    entry["findings"] += [dict(what=found["what"], program=found["program"]) for found in findings]
    for reason, count in refused.items():
        entry["refused"][reason] = entry["refused"].get(reason, 0) + count


if __name__ == "__main__":
    raise SystemExit(main())
