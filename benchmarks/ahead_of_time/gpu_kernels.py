"""`python -m benchmarks gpu-kernels`: which kernels XLA calls on a GPU, with no GPU present, jdeconv beside lax.

Each pass of each case is compiled ahead of time for an NVIDIA H100. A pass is right where it calls the kernel that is
made for it (forward: cuDNN's convBackwardInput, or phases by convForward; input gradient: convForward; kernel gradient:
convBackwardFilter), matrix products or one elementwise loop, and computes no more than the definition does. Work is
counted from the calls' shapes and windows, zeros included. Products may take 15 % more, since XLA pads sums to whole
tiles. Nothing is run: this tells no speed.
"""

import argparse
import dataclasses
import fnmatch
import functools
import importlib.metadata
import importlib.util
import itertools
import json
import pathlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from tqdm import tqdm  # type: ignore[import-untyped]

from ..peers.jax import Operation, of_jdeconv, of_lax
from ..report import table
from ..work.cases import CASES, DTYPES, Case, sweep
from . import gpu_program

TARGET = pathlib.Path(__file__).with_name("h100_target_config.txt")
RIGHT = {
    "forward": ("convBackwardInput", "convForward"),
    "input gradient": ("convForward", "convBackwardInput"),  # the latter where the stride is 1: both are the same then
    "kernel gradient": ("convBackwardFilter",),
}
ANYWHERE = ("product", "elementwise")
TILES = 1.15


class NoCompiler(Exception):
    """XLA's compiler for NVIDIA GPUs is not installed."""


@functools.cache
def h100() -> jax.sharding.Sharding:
    """One H100, to compile for."""
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        version = importlib.metadata.version("jaxlib")
        raise NoCompiler(
            "XLA's compiler for NVIDIA GPUs is not installed; expected the one of this jaxlib. "
            f"Run: pip install --no-deps jax-cuda12-plugin=={version} jax-cuda12-pjrt=={version}"
        )
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name="h100", topology="1x1x1", target_config=TARGET.read_text(encoding="utf-8")
    )
    return jax.sharding.SingleDeviceSharding(topology.devices[0])


@dataclasses.dataclass(frozen=True)
class Row:
    """One pass, compiled."""

    name: str
    label: str
    dtype: str
    pass_: str
    peer: str
    kernels: dict[str, int]
    """How often each is called."""
    work: float
    """Of what the definition computes."""

    @property
    def right(self) -> bool:
        most = TILES if "product" in self.kernels else 1
        return self.kernels.keys() <= {*RIGHT[self.pass_], *ANYWHERE} and 0 < self.work <= most

    @property
    def shown(self) -> str:
        # An elementwise computation is one loop, however many multiplications it has.
        counted = ((kernel, 1 if kernel == "elementwise" else count) for kernel, count in self.kernels.items())
        named = (f"{count} {kernel}" if count > 1 else kernel for kernel, count in counted)
        return f"{' + '.join(named)}, {self.work:.2f}" + ("" if self.right else " (wrong)")


def compiled(function: Operation, case: Case, dtype: str, pass_: str) -> str:
    """The text of the program for one pass."""
    w_shape = function.own(np.broadcast_to(np.float32(0), case.shapes[1]), case.groups).shape
    x, w, y = (
        jax.ShapeDtypeStruct(shape, dtype, sharding=h100()) for shape in (case.shapes[0], w_shape, case.shapes[2])
    )
    apply = functools.partial(function.apply, case)
    passes: dict[str, tuple[Callable[..., Any], tuple[jax.ShapeDtypeStruct, ...]]] = {
        "forward": (apply, (x, w)),
        "input gradient": (lambda w, y: jax.linear_transpose(lambda x: apply(x, w), x)(y), (w, y)),
        "kernel gradient": (lambda x, y: jax.linear_transpose(lambda w: apply(x, w), w)(y), (x, y)),
    }
    step, arguments = passes[pass_]
    lowered = jax.jit(step).trace(*arguments).lower()
    return lowered.compile(compiler_options={"xla_gpu_autotune_level": 0}).as_text() or ""


def row(peer: str, function: Operation, case: Case, dtype: str, pass_: str) -> Row:
    calls = gpu_program.calls(compiled(function, case, dtype, pass_))
    kernels = dict(Counter(call.kernel for call in calls))
    work = round(sum(call.flops for call in calls) / case.flops, 3)
    return Row(case.name, case.label, dtype, pass_, peer, kernels, work)


def rows(case: Case, dtype: str, pass_: str) -> list[Row]:
    """jdeconv's rows, and lax's beside them."""
    return [row(peer, of(case), case, dtype, pass_) for peer, of in (("jdeconv", _jdeconv), ("lax", of_lax))]


def _jdeconv(case: Case) -> Operation:
    return of_jdeconv("auto")


def markdown(found: Sequence[Row]) -> str:
    peers = list(dict.fromkeys(row.peer for row in found))
    cells = {(row.name, row.dtype, row.pass_, row.peer): row for row in found}
    labels = {row.name: row.label for row in found}
    totals, details = [], []
    for dtype in dict.fromkeys(row.dtype for row in found):
        for pass_ in RIGHT:
            each = [
                [row.right for row in found if (row.dtype, row.pass_, row.peer) == (dtype, pass_, p)] for p in peers
            ]
            totals.append((f"{pass_}, {dtype}", *(f"{sum(right)} of {len(right)}" for right in each)))
        whole = [[all(cells[name, dtype, p, peer].right for p in RIGHT) for name in labels] for peer in peers]
        totals.append((f"all three passes, {dtype}", *(f"{sum(right)} of {len(right)}" for right in whole)))
        details += [
            (f"{name}: {labels[name]}, {dtype}, {pass_}", *(cells[name, dtype, pass_, peer].shown for peer in peers))
            for name in labels
            for pass_ in RIGHT
        ]
    parts = ["# Kernels on an H100, compiled ahead of time", __doc__.split("\n\n", 1)[1].strip(), "## Right"]
    parts += [table(("", *peers), totals), "## Each pass: kernels, work", table(("", *peers), details)]
    return "\n\n".join(parts) + "\n"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu-kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sweep", action="store_true", help="the random geometries instead of the named cases")
    parser.add_argument("--cases", default="*", metavar="GLOB", help="only what has such a name")
    parser.add_argument("--dtype", choices=DTYPES, help="default: both")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"), help="%(default)s")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status is 1 where a pass of jdeconv's is wrong, 2 where nothing can be compiled."""
    options = parser().parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")  # the plug-in compiles, but looks for no GPU
    try:
        h100()
    except NoCompiler as error:
        print(error)
        return 2
    cases = [case for case in (sweep() if options.sweep else CASES) if fnmatch.fnmatch(case.name, options.cases)]
    dtypes = [options.dtype] if options.dtype else DTYPES
    if not cases:
        print("nothing has such a name")
        return 2
    found: list[Row] = []
    with tqdm(list(itertools.product(cases, dtypes, RIGHT))) as progress:
        for case, dtype, pass_ in progress:
            progress.set_description(f"{case.name}, {dtype}, {pass_}")
            found += rows(case, dtype, pass_)
    written = markdown(found)
    print(written)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu-kernels.md").write_text(written, encoding="utf-8")
    facts = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "jax-cuda12-plugin")}
    records = [{**dataclasses.asdict(row), "right": row.right} for row in found]
    text = json.dumps({**facts, "rows": records}, indent=1, ensure_ascii=False)
    (options.out / "gpu-kernels.json").write_text(text, encoding="utf-8")
    print(f"written to {options.out}")
    return 0 if all(row.right for row in found if row.peer == "jdeconv") else 1
