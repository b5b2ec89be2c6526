"""`python -m benchmarks`: jdeconv against its peers, in one run, on the same work.

Every result is compared with lax's before anything is timed. A wrong result is reported and not timed, and the exit
status is 1. Peers that are not installed are skipped. Without --cases or a kind of work everything is measured, slow
lax included, in more than an hour. All peers use the processors that this process may run on: choose them with taskset.

`--device gpu` and `--device tpu` first check every method, kernels included, against the definition in float64. The
report is results.md and results.json.

`gpu-kernels` as the first argument: which kernels XLA calls on a GPU, with no GPU present (see its --help).
`tpu-estimate` as the first argument: what the TPU compiler estimates (see its --help).
`tpu-pallas` as the first argument: the Pallas kernel's schedule beside those estimates (see its --help).
"""

import argparse
import fnmatch
import importlib
import importlib.util
import os
import pathlib
import sys
from collections.abc import Collection, Sequence

from tqdm import tqdm  # type: ignore[import-untyped]

from . import definition, machine, report
from .measure import Record, measure
from .peers import PEERS, SUBJECT, Peer
from .peers.entry import Work
from .report import plot
from .work.cases import CASES, DTYPES, ENSEMBLES, GROWTH, PASSES, sweep
from .work.models import MODELS, Model
from .work.ordinary import ORDINARY
from .work.stacks import STACKS

# The first argument may name another command: its module is loaded when it is asked for.
COMMANDS = {
    "plan": "benchmarks.plan.command",
    "gpu-kernels": "benchmarks.ahead_of_time.gpu_kernels",
    "tpu-estimate": "benchmarks.ahead_of_time.tpu_estimate",
    "tpu-pallas": "benchmarks.ahead_of_time.tpu_pallas",
}
CHECKED = {True: 4, False: 24}  # problems, with and without --quick
# Cases that lax needs little time for too.
QUICK = (
    "rgbout",
    "k9s3",
    "wavenc",
    "dw3",
    "sweep-0[01]",
    "vae-decoder",
    "vae",
    "conv-k3-one",
    "conv-dw-k3-multiplier",
    "vmap",
    "growth-batch-1",
    "growth-batch-4",
)
KINDS = ("ordinary", "sweep", "stacks", "models")  # the options that select them
STEPS = ("stacks", "models")  # which are trained only


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few cases and rounds, float32: under two minutes")
    parser.add_argument("--cases", metavar="GLOB", help="only what has such a name, as in 'dcgan*' or 'growth-*'")
    parser.add_argument("--sweep", action="store_true", help="only the random geometries")
    parser.add_argument("--stacks", action="store_true", help="only whole stacks (with --sweep: both)")
    parser.add_argument("--models", action="store_true", help="only whole models, one training step each")
    parser.add_argument("--ordinary", action="store_true", help="only single ordinary convolutions")
    parser.add_argument("--dtype", choices=DTYPES, help="default: both")
    parser.add_argument("--pass", dest="pass_", choices=PASSES, help="default: both")
    parser.add_argument("--rounds", type=int, help="of each peer that is not slow (default: 9, --quick: 2)")
    parser.add_argument("--peers", default="*", metavar="GLOBS", help="as in 'jdeconv*,lax,torch:*' (default: all)")
    parser.add_argument("--costs", action="store_true", help="a table of temporary memory and time to compile")
    parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), default="cpu", help="default: %(default)s")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"), help="%(default)s")
    return parser


def selected(cases: str | None, kinds: Collection[str], quick: bool) -> list[Work]:
    """What has such a name and, if `kinds` has any, is of such a kind."""
    works: list[Work] = [*CASES, *ORDINARY, *sweep(), *STACKS, *MODELS, *ENSEMBLES, *GROWTH]
    globs = QUICK if quick else ("*",)
    return [
        work
        for work in works
        if (not kinds or work.kind in kinds)
        and any(fnmatch.fnmatch(work.name, glob) for glob in globs)
        and fnmatch.fnmatch(work.name, cases or "*")
    ]


def present(globs: str, device: str) -> dict[str, Peer]:
    """The peers that fit and can be measured here; the others are printed."""
    peers = {}
    for name, peer in PEERS.items():
        if name != SUBJECT and not any(fnmatch.fnmatch(name, glob.strip()) for glob in globs.split(",")):
            continue
        if absence := peer.absence(device):
            print(f"skipped: {name} ({absence})")
        else:
            peers[name] = peer
    return peers


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and (module := COMMANDS.get(arguments[0])):
        return importlib.import_module(module).main(arguments[1:])
    options = parser().parse_args(arguments)
    try:
        machine.use(options.device)
    except machine.NoDevice as error:
        print(error)
        return 2
    machine.keep_memory()
    peers = present(options.peers, machine.device())
    dtypes = [options.dtype] if options.dtype else DTYPES[: 1 if options.quick else None]
    passes = [options.pass_] if options.pass_ else PASSES
    rounds = options.rounds or (2 if options.quick else 9)
    works = selected(options.cases, [kind for kind in KINDS if getattr(options, kind)], options.quick)
    if importlib.util.find_spec("flax") is None:
        print("skipped: models (flax not installed)")
        works = [work for work in works if not isinstance(work, Model)]
    cells = [
        (work, dtype, pass_)
        for work in works
        for dtype in dtypes
        for pass_ in passes
        if (pass_ == "train" or work.kind not in STEPS) and (dtype == "float32" or work.kind != "models")
    ]
    if not cells:
        print("nothing has such a name")
        return 2
    facts = {**machine.facts(), "rounds": rounds, "peak": {dtype: machine.peak(dtype) for dtype in dtypes}}
    print(f"{facts['device']}, {facts['processor']}: {facts['threads']} threads for each peer")
    verdicts: list[definition.Verdict] = []
    if machine.device() != "cpu":  # where the tests run
        for verdict in tqdm(definition.verdicts(CHECKED[options.quick]), "against the definition", unit="program"):
            if verdict.wrong:
                tqdm.write(f"WRONG: {definition.described(verdict)}", file=sys.stderr)
            verdicts.append(verdict)
    records: list[Record] = []
    with tqdm(cells, unit="cell") as progress:
        for work, dtype, pass_ in progress:
            progress.set_description(f"{work.name}, {dtype}, {pass_}")
            # How time grows is jdeconv's own affair, and lax would take minutes.
            asked = {name: peer.asked[type(work)] for name, peer in peers.items() if type(work) in peer.asked}
            builders = {SUBJECT: asked[SUBJECT]} if work.kind == "growth" else asked
            found = measure(work, dtype, pass_, builders, rounds, budget=0.5 if options.quick else 1)
            for line in report.wrongs(found):
                progress.write(f"WRONG: {line}", file=sys.stderr)
            records += found
    written = report.markdown(facts, records, options.costs) + definition.markdown(verdicts)
    print(written)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.md").write_text(written, encoding="utf-8")
    (options.out / "results.json").write_text(
        report.as_json(facts, records, definition.as_data(verdicts)), encoding="utf-8"
    )
    try:
        plot.draw(facts, records, options.out / "results.png")
    except ModuleNotFoundError as error:
        print(f"no plot: {error.name} is not installed")
    print(f"written to {options.out}")
    return 1 if report.wrongs(records) or any(verdict.wrong for verdict in verdicts) else 0


if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is first imported, be it by TensorFlow
    sys.exit(main())
