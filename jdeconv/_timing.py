"""The candidates of one operation, timed on a device: compiled, compared with 'lax', run in turns."""

import dataclasses
import functools
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np

from ._dtypes import at_least_float32
from ._engine.engine import cpu_engine_kind
from ._formulations import METHODS
from ._jax_operations import jnp
from ._operator.lowering import by_choice
from ._operator.planned import JAXLIB, precision_of
from ._operator.primitive import LETTERS, operand_roles
from ._plan.candidates import candidates
from ._plan.choose import AUTO, Choice, choose
from ._plan.engine_kind import XLA
from ._plan.problem import Problem
from ._plan.tuning import Entry, Operation, Timing

NOISE = 1.03
"""Times within this ratio are taken to be equal."""
HOPELESS = 3
"""A candidate whose first run takes so many times the best one's is not run again."""
FAR, CLOSE = 1.5, 1.15
"""After two rounds only candidates within `FAR` of the best one run on, and after `FEW_ROUNDS` those within `CLOSE`."""
FEW_ROUNDS, MANY_ROUNDS = 4, 9
BRIEF = 2e-2
"""Seconds below which a first run is repeated."""
SAMPLE = 5e-3
"""Seconds that a sample takes at least, by repeating short runs."""
WORKERS = max(1, min(4, os.cpu_count() or 1))

# Results may be off by so much of the largest magnitude: rounding errors of a sum grow with the root of its terms, and
# partial sums in 16 bits are rounded a few times. Operands are small integers, exact in every type.
SUMS, ROUNDINGS = 16, 4


@dataclasses.dataclass
class _Trial:
    """One candidate under way."""

    choice: Choice
    run: Callable[[], jax.Array] | None = None
    first: float = math.inf
    """Seconds of an early run."""
    samples: list[float] = dataclasses.field(default_factory=list)
    reason: str | None = "the budget was spent"

    @property
    def seconds(self) -> float:
        """The median sample; infinite for a candidate that has none."""
        return statistics.median(self.samples) if self.samples else math.inf

    def timing(self) -> Timing:
        """The record of it."""
        return Timing(self.choice, 1e3 * self.seconds if self.samples else None, self.reason)


def time_operation(operation: Operation, platform: str, device: jax.Device, kind: str, allowance: float) -> Entry:
    """An operation's candidates on a device, whose kind is named so, in about `allowance` seconds.

    'lax' and the table's choice are timed whatever it takes.
    """
    problem = operation.problem
    engine = cpu_engine_kind(problem) if platform == "cpu" else XLA
    engines = (engine, XLA) if engine.onednn else (XLA,)
    default = dataclasses.replace(choose(platform, engine, problem, AUTO, METHODS), rule=None)
    choices = candidates(platform, engines, problem, METHODS)
    trials = [_Trial(choice) for choice in dict.fromkeys((choices[0], default, *choices))]
    must = [trial for trial in trials if trial.choice in (choices[0], default)]
    end = time.perf_counter() + allowance
    operands = _operands(operation, device)
    want = _check(_compiled(must, operation, platform, operands, math.inf), operation)
    rest = [trial for trial in trials if trial not in must]
    _check(_compiled(rest, operation, platform, operands, end), operation, want)
    _take_turns(trials, must, end)
    return Entry(
        kind, JAXLIB, operation, default, _best(trials, choices[0], default), tuple(trial.timing() for trial in trials)
    )


def _best(trials: Sequence[_Trial], lax_: Choice, default: Choice) -> Choice:
    """The fastest; in its stead 'lax', or else the table's choice, if that is as fast but for noise."""
    timed = {trial.choice: trial.seconds for trial in trials if trial.samples}
    if not timed:
        return default
    fastest = min(timed, key=timed.__getitem__)
    equal = [choice for choice in (lax_, default) if timed.get(choice, math.inf) <= NOISE * timed[fastest]]
    return equal[0] if equal else fastest


# Programs and operands.


def _compiled(
    trials: Sequence[_Trial], operation: Operation, platform: str, operands: Sequence[jax.Array], end: float
) -> Sequence[_Trial]:
    """Gives each trial its program. Compilers run side by side; a program that none has begun by `end` is left out."""
    shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding) for array in operands]
    with futures.ThreadPoolExecutor(WORKERS) as pool:
        begun: list[tuple[_Trial, futures.Future[Any]]] = []
        for trial in trials:
            if time.perf_counter() > end:
                break
            try:  # traced in this thread, which has the caller's settings
                program = jax.jit(functools.partial(_result, trial.choice, platform, operation)).lower(*shapes)
            except Exception as error:
                trial.reason = _refused(error)
                continue
            begun.append((trial, pool.submit(program.compile)))
        for trial, future in begun:
            if time.perf_counter() > end and future.cancel():
                continue
            try:
                trial.run = functools.partial(future.result(), *operands)
            except Exception as error:
                trial.reason = _refused(error)
    return trials


def _result(choice: Choice, platform: str, operation: Operation, a: jax.Array, b: jax.Array) -> jax.Array:
    problem, precision = operation.problem, precision_of(operation)
    return by_choice(choice, platform, a, b, problem.geometry, problem.result, operation.dtype, precision)


def _operands(operation: Operation, device: jax.Device) -> list[jax.Array]:
    """Small integers of either sign, so that sums are exact as long as the type can hold them."""
    problem, rng = operation.problem, np.random.default_rng(0)
    sizes = {"n": problem.batch, "g": problem.groups, "i": problem.inputs, "o": problem.outputs}
    dtype = np.dtype(operation.operands)
    least = 0 if dtype.kind == "u" else -2
    arrays = []
    for role in operand_roles(problem.result):
        before, after = LETTERS[role].split("_")
        shape = [
            *(sizes[letter] for letter in before),
            *getattr(problem.geometry, role),
            *(sizes[letter] for letter in after),
        ]
        values = rng.integers(least, 3, shape, "int8")
        whole = values + 1j * values[..., ::-1] if dtype.kind == "c" else values
        arrays.append(jax.device_put(whole.astype(dtype), device))
    return arrays


# Numbers.


def _check(trials: Sequence[_Trial], operation: Operation, want: Any = None) -> Any:
    """Runs each: what fails, or is further from what is wanted than rounding takes it, ends here.

    Without a result that is wanted, that of the first that runs is. Returns it.
    """
    for trial in trials:
        if trial.run is None:
            continue
        try:
            got = np.asarray(trial.run())
        except Exception as error:
            trial.run, trial.reason = None, _refused(error)
            continue
        if want is None:
            want = got
        elif difference := _differs(got, want, operation):
            trial.run, trial.reason = None, difference
            continue
        # The run before brought the program to the device, and woke threads. One of three short runs is undisturbed.
        trial.first, trial.reason = _seconds(trial.run), None
        if trial.first < BRIEF:
            trial.first = min(trial.first, _seconds(trial.run), _seconds(trial.run))
    return want


def _differs(got: Any, want: Any, operation: Operation) -> str | None:
    if not jnp.issubdtype(want.dtype, np.inexact):
        return None if np.array_equal(got, want) else "wrong: it differs from lax"
    wide = np.promote_types(at_least_float32(want.dtype), "float32")
    got, want = got.astype(wide), want.astype(wide)
    sums, result = (
        float(jnp.finfo(kind).eps) for kind in (at_least_float32(np.dtype(operation.dtype)), operation.dtype)
    )
    bound = SUMS * math.sqrt(terms_of(operation.problem)) * sums + (ROUNDINGS * result if result > sums else 0)
    scale = float(np.abs(want).max(initial=0))
    error = float(np.abs(got - want).max(initial=0))
    if error <= bound * scale:  # so that NaN is wrong too
        return None
    return f"wrong: it differs from lax by {error:.2g}; allowed: {bound * scale:.2g}"


def terms_of(problem: Problem) -> int:
    """How many terms an element of the result has at most."""
    positions = problem.batch * math.prod(problem.geometry.input)
    terms = {
        "output": problem.block_count * problem.inputs,
        "input": problem.taps * problem.outputs,
        "kernel": positions,
    }
    return int(terms[problem.result])


def _refused(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"refused: {type(error).__name__}: {first[:160]}"


# Times.


def _take_turns(trials: Sequence[_Trial], must: Sequence[_Trial], end: float) -> None:
    """Samples of each candidate in turns, in another order each time; fewer for what is far behind.

    What is in `must` has two samples at least.
    """
    rng = random.Random(0)
    running = [trial for trial in trials if trial.run]
    least = min((trial.first for trial in running), default=0)
    for trial in running:
        if trial.first > HOPELESS * least and trial not in must:
            trial.samples.append(trial.first)
            trial.reason = "one run"
    running = [trial for trial in running if not trial.samples]
    for number in range(MANY_ROUNDS):
        if number and time.perf_counter() > end:
            break
        for trial in rng.sample(running, len(running)):
            trial.samples.append(_sample(trial))
        fastest = min(trial.seconds for trial in running)
        reach = math.inf if number < 1 else FAR if number < FEW_ROUNDS else CLOSE
        running = [trial for trial in running if trial.seconds <= reach * fastest]
        if len(running) == 1 and number >= 1:
            break


def _sample(trial: _Trial) -> float:
    """Seconds of a run: the median of runs that fill the sample's time."""
    assert trial.run is not None
    if trial.first < SAMPLE:
        _seconds(trial.run)  # its data replace another candidate's in the caches
    runs = [_seconds(trial.run)]
    while sum(runs) < SAMPLE:
        runs.append(_seconds(trial.run))
    return statistics.median(runs)


def _seconds(run: Callable[[], jax.Array]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start
