"""What is chosen for an operation where it runs: what a tuning in use has measured there, else what the tables say."""

import functools
import threading
import warnings
from typing import Any

import jax
import numpy as np
from jaxlib import version

from .. import _settings
from .._engine.device import device_kind, device_kinds
from .._engine.engine import cpu_engine_kind
from .._formulations import METHODS
from .._plan import tuning_file
from .._plan.choose import AUTO, Choice, choose
from .._plan.engine_kind import XLA, EngineKind
from .._plan.problem import Problem
from .._plan.tuning import DEFAULT, Measurements, Operation
from .._plan.ways import calls_engine

JAXLIB = version.__version__

_from_file = functools.lru_cache(maxsize=8)(functools.partial(tuning_file.read, argument="JDECONV_TUNING"))


def tunings_in_use() -> tuple[Measurements, ...]:
    """This thread's tunings, then the process's, the innermost first; each is hashable."""
    process = _settings.process_tunings.value
    found = (*_settings.tunings.value, *(_from_file(each) if isinstance(each, str) else each for each in process))
    for tuning in found:
        _say_once_what_is_not_used(tuning)
    return found


def planned(
    platform: str,
    onednn: bool,
    operation: Operation,
    method: str,
    tunings: tuple[Measurements, ...] = (),
    portable: bool = False,
) -> Choice:
    """The choice for an operation on `platform`, oneDNN being among the engines if `onednn`.

    Args:
      tunings: the first that has the operation, on this process's device of the platform, goes before the tables.
      portable: whether the program leaves this process or runs in parts: of a tuning it takes what XLA compiles alone.
    """
    problem = operation.problem
    engine = cpu_engine_kind(problem) if onednn else XLA
    if method == AUTO and tunings and problem.known_sizes and not _unknown_channels(problem):
        return _tuned(platform, engine, operation, tunings, portable)
    return choose(platform, engine, problem, method, METHODS)


def _unknown_channels(problem: Problem) -> bool:
    return not all(isinstance(size, int) for size in (problem.inputs, problem.outputs))


@functools.lru_cache(maxsize=4096)
def _tuned(
    platform: str, engine: EngineKind, operation: Operation, tunings: tuple[Measurements, ...], portable: bool
) -> Choice:
    problem, device = operation.problem, device_kind(platform)
    found = [device and tuning.find(device, JAXLIB, operation) for tuning in tunings]
    measured = [choice for choice in found if choice and not (portable and _is_tied(choice, platform, problem))]
    return choose(platform, engine, problem, AUTO, METHODS, measured)


def _is_tied(choice: Choice, platform: str, problem: Problem) -> bool:
    """Whether a choice's program calls oneDNN, or a kernel in Triton, which `jax.export` holds not to be stable."""
    by_onednn = choice.engine.onednn and calls_engine(choice.method, choice.variant, problem)
    return by_onednn or (choice.method, platform) == ("pallas", "gpu")


def operation_of(problem: Problem, operands: Any, dtype: Any, precision: Any) -> Operation:
    """The operation of a problem, of operands of a dtype, and a result's dtype and precision."""
    return Operation(problem, np.dtype(operands).name, np.dtype(dtype).name, _name_of(precision))


def precision_of(operation: Operation) -> Any:
    """The precision that an operation was asked for with, as `jax.lax` takes it."""
    if operation.precision == _name_of(None):
        return None
    return tuple(operation.precision.split(", ")) if ", " in operation.precision else operation.precision


def _name_of(precision: Any) -> str:
    if isinstance(precision, tuple):
        first, second = map(_name_of, precision)
        return first if first == second else f"{first}, {second}"
    if precision is None:  # then JAX's own setting holds
        return str(jax.config.jax_default_matmul_precision or DEFAULT)  # type: ignore[attr-defined]
    return str(getattr(precision, "name", precision)).lower()


_said = threading.Event()


@functools.lru_cache(maxsize=64)
def _say_once_what_is_not_used(tuning: Measurements) -> None:
    if _said.is_set() or not (foreign := tuning.foreign(device_kinds(), JAXLIB)):
        return
    _said.set()
    others = sorted({f"{entry.device} with jaxlib {entry.jaxlib}" for entry in foreign})
    here = f"{' and '.join(device_kinds())} with jaxlib {JAXLIB}"
    warnings.warn(
        f"{len(foreign)} of a tuning's {len(tuning)} operations were measured elsewhere and are not used here: on "
        f"{'; '.join(others)}. This is {here}: jdeconv.autotune measures here.",
        stacklevel=2,
    )
