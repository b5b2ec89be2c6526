"""Programs compiled ahead of time for a TPU that is not there, by the compiler in the package libtpu."""

import argparse
import functools
import importlib
import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from jdeconv._formulations import METHODS
from jdeconv._geometry import build
from jdeconv._plan import choose as planning
from jdeconv._plan.engine_kind import XLA
from jdeconv._plan.problem import Problem

from ..peers.jax import of_jdeconv, of_lax
from ..work.cases import DTYPES, Case

CHIPS = {"v5e:2x2": "v5e", "v6e:2x2": "v6e", "v4:2x2x1": "v4"}
RESULTS = ("output", "input", "kernel")
LAX = "lax.conv_transpose"
MOST_OPERATIONS = 40
"""Convolutions or products in one program: beyond, compiling takes minutes."""
MOST_TAPS = 150
"""Of a kernel in three dimensions: beyond, compiling lax's own takes minutes."""


def parser(command: str, description: str | None, sweep: str) -> argparse.ArgumentParser:
    """What every command that compiles for a TPU asks for; `sweep` says what its flag adds."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", metavar="GLOB", default="*", help="only what has such a name, as in 'dcgan*'")
    parser.add_argument("--sweep", action="store_true", help=sweep)
    parser.add_argument("--topology", choices=CHIPS, default="v5e:2x2", help="default: %(default)s")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="default: %(default)s")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"), help="%(default)s")
    return parser


@functools.cache
def topology(name: str) -> jax.sharding.SingleDeviceSharding:
    """One device of the chip. Raises ModuleNotFoundError where there is no compiler for it."""
    # libtpu would look for its own machine otherwise, and let only one process use it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_platforms", "cpu")
    importlib.import_module("libtpu")
    devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    return jax.sharding.SingleDeviceSharding(devices[0])


def problem_of(case: Case, result: str, dtype: str) -> Problem:
    geometry = build(case.size, case.kernel, case.stride, (1,) * case.rank, "SAME")
    channels = case.c_in // case.groups, case.c_out // case.groups
    return Problem(geometry, result, case.batch, case.groups, *channels, dtype)


def without_kernel(problem: Problem) -> planning.Choice:
    """What `auto` takes on a TPU but for the Pallas kernel, in which the compiler estimates nothing."""
    others = {name: method for name, method in METHODS.items() if name != "pallas"}
    return planning.choose("tpu", XLA, problem, planning.AUTO, others | {"pallas": _Nothing()})


class _Nothing:
    def supports(self, problem: Problem) -> str:
        return "left out"


def as_lax(case: Case, result: str, dtype: str) -> bool:
    """Whether jdeconv's choice is lax's own program, but for reversals and reshapes that the compiler cancels.

    Where a size is 1 the compiler may cancel others too; there, and for groups, both are compiled.
    """
    problem = problem_of(case, result, dtype)
    choice = without_kernel(problem)
    own = (choice.method, choice.variant) == ("lax", "as lax") and case.groups == 1
    if result == "output":
        return own
    return own and min(problem.inputs, problem.outputs, *case.kernel, *case.size) > 1


def refusal(case: Case, method: str, result: str) -> str | None:
    """Why there is no such program, or none that compiles soon."""
    problem = problem_of(case, result, "float32")
    if case.rank == 3 and problem.taps > MOST_TAPS:
        return f"{problem.taps} taps in 3-D; expected at most {MOST_TAPS}"
    if method not in METHODS:
        return None
    if reason := METHODS[method].supports(problem):
        return reason
    count = operations(method, problem)
    return None if count <= MOST_OPERATIONS else f"{count} operations; expected at most {MOST_OPERATIONS}"


def operations(method: str, problem: Problem) -> int:
    """How many convolutions, products or terms a formulation writes out."""
    if method == "phase":
        return 1 if problem.padding_factor == 1 or problem.result == "kernel" else problem.phase_count
    if method == "gemm":
        return problem.taps if problem.result == "input" and problem.padding_factor > 1 else problem.block_count
    if method == "taps":
        return problem.terms
    return 1


def compiled(case: Case, method: str, result: str, dtype: str, chip: str) -> str:
    """The text of the compiled program."""
    text = program(case, method, result, dtype, chip).as_text()
    assert text is not None
    return text


def program(case: Case, method: str, result: str, dtype: str, chip: str) -> jax.stages.Compiled:
    """For one of the three results: by `method`, or lax's own (`LAX`); 'auto' is without the Pallas kernel."""
    if method == planning.AUTO:
        method = without_kernel(problem_of(case, result, dtype)).method
    function = _function(case, method)
    x, w, y = (jax.ShapeDtypeStruct(shape, dtype, sharding=topology(chip)) for shape in case.shapes)

    def input_gradient(w: jax.Array, y: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda x: function(x, w), x)(y)[0]

    def kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda w: function(x, w), w)(y)[0]

    solved, operands = {
        "output": (function, (x, w)),
        "input": (input_gradient, (w, y)),
        "kernel": (kernel_gradient, (x, y)),
    }[result]
    return jax.jit(solved).trace(*operands).lower().compile()


def _function(case: Case, method: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    if method != LAX:
        return functools.partial(of_jdeconv(method).apply, case)
    chosen = of_lax(case)
    if case.groups == 1:
        return functools.partial(chosen.apply, case)
    # The same kernel as for one group, turned within the program as lax.conv_transpose does.
    return lambda x, w: chosen.apply(case, x, _turned(w, case.groups))


def _turned(w: jax.Array, groups: int) -> jax.Array:
    """`(*K, o, g*i)` to the flipped `(*K, i, g*o)`."""
    *kernel, o, channels = w.shape
    split = jnp.flip(w, range(len(kernel))).reshape(*kernel, o, groups, channels // groups)
    return split.swapaxes(-3, -1).reshape(*kernel, channels // groups, groups * o)
