"""The candidates of one problem: compiled, compared with lax, and timed in turns."""

import dataclasses
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdeconv._dtypes import at_least_float32
from jdeconv._engine.engine import Engine, cpu_engine_kind
from jdeconv._formulations import METHODS
from jdeconv._operator.primitive import LETTERS, operand_roles
from jdeconv._plan.candidates import candidates
from jdeconv._plan.choose import AUTO, Choice, choose
from jdeconv._plan.engine_kind import XLA
from jdeconv._plan.problem import Problem
from jdeconv._timing import terms_of

from .problems import Item

HOPELESS = 3
"""A candidate whose first run takes so many times the best one's has no other."""
FAR, FAR_ROUNDS = 1.5, 3
"""After so many rounds, what takes so many times the best one's has no other."""
ROUNDS = 9
SAMPLE = 5e-3
"""Seconds that a sample takes at least, by repeating short runs."""
# A result may be off by so many roundings of the largest magnitude: those of a sum grow with the root of its terms, and
# partial sums in 16 bits are rounded a few times. Operands are small integers, exact in every type.
SUMS, ROUNDINGS = 16, 4


@dataclasses.dataclass
class Taken:
    """What one candidate took."""

    compile_s: float | None = None
    ms: float | None = None
    note: str = ""
    """'once' for a candidate that was given up after its first run; or what was wrong."""


@dataclasses.dataclass
class _Trial:
    taken: Taken
    run: Callable[[], Any]
    first: float
    """Seconds of its first run."""
    samples: list[float] = dataclasses.field(default_factory=list)

    @property
    def seconds(self) -> float:
        return statistics.median(self.samples)


def key(choice: Choice) -> str:
    """A candidate's name in a file of times."""
    return f"{choice.method}/{choice.variant}/{'onednn' if choice.engine.onednn else 'xla'}"


def measured(item: Item, ways: Sequence[Choice] | None = None) -> dict[str, Taken]:
    """What each candidate of the problem took on this CPU, lax first; or each of `ways`."""
    wide = item.problem.dtype in ("float64", "complex128", "int64")
    before = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    jax.config.update("jax_enable_x64", wide or before)
    try:
        return _measured(item, _candidates(item.problem) if ways is None else ways)
    finally:
        jax.config.update("jax_enable_x64", before)
        jax.clear_caches()


def _candidates(problem: Problem) -> list[Choice]:
    """lax, the table's choice, and all others."""
    engine = cpu_engine_kind(problem)
    found = candidates("cpu", (engine, XLA) if engine.onednn else (XLA,), problem, METHODS)
    default = dataclasses.replace(choose("cpu", engine, problem, AUTO, METHODS), rule=None)
    return list(dict.fromkeys((found[0], default, *found)))


def _measured(item: Item, ways: Sequence[Choice]) -> dict[str, Taken]:
    operands = _operands(item)
    result: dict[str, Taken] = {}
    trials: list[_Trial] = []
    want: Any = None
    for way in ways:
        taken = result[key(way)] = Taken()
        try:
            start = time.perf_counter()
            program = jax.jit(_function(item.problem, way)).lower(*operands).compile()
            taken.compile_s = time.perf_counter() - start
            run = _Run(program, operands)
            got = np.asarray(run())
        except Exception as error:  # one candidate's failure costs nobody else's figures
            taken.note = f"refused: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
            continue
        want = got if want is None else want
        if difference := _difference(got, want, item.problem):
            taken.note = difference
            continue
        first = _seconds(run)
        if first < SAMPLE:  # one of three short runs is undisturbed
            first = min(first, _seconds(run), _seconds(run))
        trials.append(_Trial(taken, run, first))
    _in_turns(trials)
    return result


class _Run:
    """A program with its operands, which are parameters of the program: XLA folds none of them."""

    def __init__(self, program: Any, operands: Sequence[jax.Array]) -> None:
        self.program, self.operands = program, operands

    def __call__(self) -> Any:
        return jax.block_until_ready(self.program(*self.operands))


def _function(problem: Problem, way: Choice) -> Callable[[jax.Array, jax.Array], jax.Array]:
    compute = METHODS[way.method].VARIANTS[problem.result][way.variant]
    engine = Engine(None, np.dtype(problem.dtype), "cpu", way.engine.onednn)

    def function(a: jax.Array, b: jax.Array) -> jax.Array:
        with jax.numpy_rank_promotion("allow"):  # formulations broadcast on purpose
            return compute(a, b, problem.geometry, engine).astype(problem.dtype)

    return function


def _operands(item: Item) -> list[jax.Array]:
    """Small integers of either sign."""
    problem, dtype, rng = item.problem, np.dtype(item.operands), np.random.default_rng(0)
    sizes = {"n": problem.batch, "g": problem.groups, "i": problem.inputs, "o": problem.outputs}
    arrays = []
    for role in operand_roles(problem.result):
        before, after = ([sizes[letter] for letter in letters] for letters in LETTERS[role].split("_"))
        values = rng.integers(-2, 3, (*before, *getattr(problem.geometry, role), *after), "int8")
        arrays.append(jnp.asarray((values + 1j * values[..., ::-1] if dtype.kind == "c" else values).astype(dtype)))
    return arrays


def _difference(got: Any, want: Any, problem: Problem) -> str:
    """What is wrong with a result; nothing, if it differs from lax's by rounding alone."""
    if not jnp.issubdtype(want.dtype, np.inexact):
        return "" if np.array_equal(got, want) else "wrong: it differs from lax"
    wide = np.promote_types(at_least_float32(want.dtype), "float32")
    sums, result = (float(jnp.finfo(kind).eps) for kind in (at_least_float32(want.dtype), want.dtype))
    bound = SUMS * math.sqrt(terms_of(problem)) * sums + (ROUNDINGS * result if result > sums else 0)
    scale = float(np.abs(want.astype(wide)).max(initial=0))
    error = float(np.abs(got.astype(wide) - want.astype(wide)).max(initial=0))
    if error <= bound * scale:  # so that NaN is wrong too
        return ""
    return f"wrong: it differs from lax by {error:.2g}; allowed: {bound * scale:.2g}"


def _in_turns(trials: Sequence[_Trial]) -> None:
    """Fills in the milliseconds: medians of samples taken in turns, in another order each time.

    lax and the table's choice, the first two, have some samples whatever they take: the report compares them.
    """
    rng = random.Random(0)
    least = min((trial.first for trial in trials), default=0)
    running = [trial for number, trial in enumerate(trials) if number < 2 or trial.first <= HOPELESS * least]
    for trial in trials:
        if trial not in running:
            trial.taken.ms, trial.taken.note = 1e3 * trial.first, "once"
    for number in range(ROUNDS):
        for trial in rng.sample(running, len(running)):
            trial.samples.append(_sample(trial))
        if number + 1 >= FAR_ROUNDS:
            best = min(trial.seconds for trial in running)
            running = [trial for trial in running if trial.seconds <= FAR * best]
    for trial in trials:
        if trial.samples:
            trial.taken.ms = 1e3 * trial.seconds


def _sample(trial: _Trial) -> float:
    """Seconds of a run: the median of runs that fill the sample's time."""
    if trial.first < SAMPLE:
        trial.run()  # its data replace another candidate's in the caches
    runs = [_seconds(trial.run)]
    while sum(runs) < SAMPLE:
        runs.append(_seconds(trial.run))
    return statistics.median(runs)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
