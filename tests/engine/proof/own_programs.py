"""jdeconv's own programs by XLA alone: values and both gradients of each method, against the tests' definition."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from cases import Case, cases, refuses
from hypothesis import HealthCheck, Phase, given, seed, settings

from jdeconv import _settings


def drawn(order: dict[str, Any]) -> list[str]:
    """So many programs of one method, as text; the same from the same seed."""
    found: list[str] = []

    def keep(case: Case) -> None:
        if len(found) < order["draws"] and not (order["kind"] != "auto" and refuses(order["kind"], case)):
            program = dict(case=dataclasses.asdict(case), method=order["kind"], pool=order["pool"])
            found.append(json.dumps(program | dict(guard="start" if len(found) % 3 == 2 else "end")))

    check = given(cases(dtypes=(order["dtype"],)))(keep)
    generated = settings(
        max_examples=2 * order["draws"],
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seed(f"{order['seed']} {order['batch']}")(generated(check))()
    return found


def run(program: dict[str, Any], place: Callable[[Any], jax.Array]) -> str | None:
    """What is wrong with a program's results; `place` gives XLA a guarded copy of an operand."""
    case = Case(**{name: _tuples(value) for name, value in program["case"].items()})
    function = case.function(program["method"])

    def all_three(x: Any, w: Any, y: Any) -> Any:
        out, pull = jax.vjp(function, x, w)
        return out, *pull(y)

    x, w, y = case.arrays()
    operands = [place(array) for array in (case.to_format(x), w, case.to_format(y))]
    with _settings.onednn(False):
        results = jax.block_until_ready(jax.jit(all_three)(*operands))
    out, x_bar, w_bar = results
    try:
        case.check([case.from_format(out), case.from_format(x_bar), np.asarray(w_bar)])
    except AssertionError as error:
        return f"wrong: {str(error).splitlines()[-1]}"
    finally:
        for array in (*operands, *results):
            array.delete()
    return None


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
