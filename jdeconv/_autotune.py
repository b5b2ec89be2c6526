"""`autotune`: measures every way to compute a program's operators where they run, and keeps the best."""

import contextlib
import importlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ._arguments import described, flag, shown
from ._engine.device import device_kind
from ._errors import blames_caller, refusal
from ._operator.found import operations_in
from ._operator.lowering import named_by_planner
from ._plan.tuning import Entry, named
from ._timing import time_operation
from ._tuning import Tuning


@blames_caller
def autotune(f: Callable[..., Any], *args: Any, budget_s: float = 60.0, progress: bool = True, **kwargs: Any) -> Tuning:
    """Measures every way to compute the transposed and ordinary convolutions of `f(*args, **kwargs)`, on this device.

    The planner's tables were fitted on a few machines. This measures on yours: it finds each operator of jdeconv in the
    program of `f` (inside `jit`, `grad`, `vmap`, `scan`, `while_loop`, `cond`, `checkpoint`, `shard_map`, custom rules;
    under `patch()` the convolutions of `jax.lax` too), and for each distinct operation times the candidates that are
    valid on this device: methods, variants and engines. `f` is traced, as by `jax.jit`. Nothing of it runs.

    Each candidate is compared with `'lax'` first, within the rounding that follows from the number of terms, on small
    integers. One that differs by more is never chosen, and a `UserWarning` names it. Candidates then run alone, in
    turns, and medians count. `'lax'` is chosen if it is within 3 % of the fastest, else the table's choice if that is.

    What is left out is listed in the `Tuning`: operators whose sizes are symbolic, operators that XLA splits over
    several devices (inside a `shard_map` over all axes each device has its own), and operators with a `method`.

    Args:
      f: a function of arrays, such as a training step: what is differentiated in `f` is measured with its gradients.
      *args, **kwargs: what `f` is called with. Arrays may be `jax.ShapeDtypeStruct`s: only shapes, dtypes and shardings
        count. Anything else reaches `f` as it is.
      budget_s: about how many seconds to take, the compiler's time included. Operations share it. `'lax'` and the
        table's choice are timed for each operation in any case. Default 60.
      progress: whether to show a progress bar, where tqdm is installed. Default True.

    Returns: a `Tuning`. `with tuning:` uses it in this thread, `use_tuning(tuning)` everywhere; `tuning.save(path)`
      keeps it; `print(tuning)` shows all times.

    Raises:
      TypeError: `f` is not callable, `budget_s` is no number, or `progress` no bool.
      ValueError: `budget_s` is not above 0.

    A function that takes a `budget_s` or `progress` of its own is given inside a `lambda`.

    Example:
      >>> import jax, jax.numpy as jnp, jdeconv
      >>> def loss(w, x):
      ...     return (jdeconv.conv2d_transpose(x, w, None, 2) ** 2).sum()
      >>> x, w = jax.ShapeDtypeStruct((1, 4, 4, 2), "float32"), jnp.ones((2, 2, 3, 2))
      >>> step = jax.jit(jax.grad(loss))
      >>> tuning = autotune(step, w, x, budget_s=10, progress=False)
      >>> sorted(entry.operation.problem.result for entry in tuning.entries)
      ['kernel', 'output']
      >>> with tuning:
      ...     gradient = step(w, jnp.ones(x.shape))

    Semantics: jdeconv's own; `tokamax.autotune` has the same form.
    """
    if not callable(f):
        expected, mend = "expected a function of arrays", "Give the function itself, not its result."
        raise refusal(TypeError, "f", described(f), "it can't be called", expected, mend)
    budget, shows = _budget(budget_s), flag("progress", progress)
    device = _device(args, kwargs)
    found = operations_in(_program(f, args, kwargs))
    platform = named_by_planner(device.platform)
    kind = device_kind(platform) or f"{platform}: {device.device_kind}"
    end, entries = time.perf_counter() + budget, []
    # From the most work on: what large operations take beyond their share is taken from the small ones, not added.
    operations = sorted(found.operations, key=lambda operation: -operation.problem.flops)
    whole = sum(operation.problem.flops for operation in operations)
    shares = [1 / len(operations) + operation.problem.flops / whole for operation in operations]
    with _progress(len(operations), shows) as advance, jax.disable_jit(False):
        for number, operation in enumerate(operations):
            allowance = max(0.0, end - time.perf_counter()) * shares[number] / sum(shares[number:])
            entries.append(time_operation(operation, platform, device, kind, allowance))
            advance()
    _report_wrong(entries)
    return Tuning(entries, found.left_out)


def _budget(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise refusal(TypeError, "budget_s", shown(value), "not a number", "expected seconds", "Use 60, the default.")
    if not 0 < value < math.inf:
        raise refusal(
            ValueError, "budget_s", shown(value), "no time", "expected seconds above 0", "Use 60, the default."
        )
    return float(value)


def _program(f: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The closed jaxpr of `f` on what is an array among the arguments; the rest reaches it as it is."""
    leaves, tree = jax.tree.flatten((args, kwargs))
    traced = [_is_array(leaf) for leaf in leaves]

    def of_arrays(arrays: list[Any]) -> list[jax.Array]:
        given = iter(arrays)
        args, kwargs = jax.tree.unflatten(
            tree, [next(given) if is_ else leaf for leaf, is_ in zip(leaves, traced, strict=True)]
        )
        return [leaf for leaf in jax.tree.leaves(f(*args, **kwargs)) if isinstance(leaf, jax.Array)]

    return jax.make_jaxpr(of_arrays)([leaf for leaf, is_ in zip(leaves, traced, strict=True) if is_])


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def _device(args: Any, kwargs: Any) -> Any:
    """The device of an argument that is committed to one, else JAX's default one."""
    for leaf in jax.tree.leaves((args, kwargs)):
        if isinstance(leaf, jax.Array) and getattr(leaf, "committed", False):
            return min(leaf.devices(), key=lambda device: device.id)
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if isinstance(device, str):
        return jax.local_devices(backend=device)[0]
    return device or jax.local_devices()[0]


@contextlib.contextmanager
def _progress(total: int, shows: bool) -> Iterator[Callable[[], Any]]:
    """A progress bar where tqdm is installed; what is yielded advances it."""
    try:
        tqdm = importlib.import_module("tqdm").tqdm if shows else None
    except ImportError:
        tqdm = None
    if tqdm is None:
        yield lambda: None
        return
    with tqdm(total=total, desc="autotune", unit="operation") as bar:
        yield bar.update


def _report_wrong(entries: list[Entry]) -> None:
    wrong = [
        f"{named(timing.choice)} for {entry.operation}: {timing.reason}"
        for entry in entries
        for timing in entry.timings
        if timing.reason and timing.reason.startswith("wrong")
    ]
    if wrong:
        warnings.warn(
            f"jdeconv found wrong results on {entries[0].device}, which the tuning avoids; please report them: "
            f"{'; '.join(wrong)}",
            stacklevel=3,
        )
