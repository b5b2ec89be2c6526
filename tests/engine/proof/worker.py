"""The process that runs programs: orders come as lines of JSON, and so do its reports go.

What it is about to run it reports first, so that its parent knows the program if it ends here.
"""

import json
import os
import random
import sys
from concurrent import futures
from typing import Any

import jax
import numpy as np

from . import truth
from .draws import METHODS, Call, Program, programs
from .guard import Guard

jax.config.update("jax_platforms", "cpu")

from jdeconv._engine import onednn  # noqa: E402

guard = Guard()
# Reasons that stay: sizes that can't be, and what is no call of this class at all.
NEVER = ("an operand or result of", "padding=", "a processor without")


def report(**message: Any) -> None:
    print(json.dumps(message), file=sys.__stdout__, flush=True)


def open_gate() -> None:
    """Lets jdeconv refuse single calls for what they are, but none for the version or for want of evidence."""
    onednn.unavailable = lambda *_: None


def reason(call: Call) -> str | None:
    structs = [jax.ShapeDtypeStruct(shape, call.dtype) for shape in (call.lhs, call.rhs)]
    return onednn.refuses_conv(*structs, **call.arguments, preferred_element_type=call.result)


class Refusals:
    """Which draws are replaced, and how many of them for which reason."""

    def __init__(self, off: list[str] | None) -> None:
        self.off = off  # None: no reason is off; an empty list: each is; others: only what they refuse is drawn
        self.seen: dict[str, int] = {}

    def __call__(self, call: Call) -> bool:
        found = reason(call)
        if self.off is not None and not (found or "").startswith(NEVER):
            return bool(self.off) and found not in self.off
        if found:
            key = "sizes that oneDNN is not asked for" if found.startswith(NEVER) else found
            self.seen[key] = self.seen.get(key, 0) + 1
        return bool(found)


def placed(array: np.ndarray[Any, Any]) -> jax.Array:
    """A copy that XLA has allocated: it takes an aligned array of NumPy as it is."""
    memory = np.empty(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + 4
    apart = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    apart[...] = array
    copy = jax.block_until_ready(jax.device_put(apart))
    if guard.present and guard.size(copy.unsafe_buffer_pointer()) != array.nbytes:
        raise AssertionError(f"an operand of {array.nbytes} bytes is not guarded")
    return copy


def disguised(array: Any, how: str) -> Any:
    return {
        "": lambda: array,
        "transposed": lambda: array.T.copy(),
        "sliced": lambda: np.pad(array, 1),
        "reversed": lambda: array[::-1].copy(),
    }[how]()


def revealed(array: Any, how: str) -> Any:
    return {
        "": lambda: array,
        "transposed": lambda: array.T,
        "sliced": lambda: array[(slice(1, -1),) * array.ndim],
        "reversed": lambda: array[::-1],
    }[how]()


def run(program: Program) -> list[tuple[Call, str]]:
    """What is wrong with the results of which calls."""
    given = [truth.operands(call) for call in program.calls]
    guard.place(program.guard)
    parameters = [
        tuple(placed(disguised(x, how)) for x, how in zip(pair, call.disguises, strict=True))
        for pair, call in zip(given, program.calls, strict=True)
    ]

    def convolutions(parameters: Any) -> list[Any]:
        return [
            onednn._conv(
                *(revealed(x, how) for x, how in zip(pair, call.disguises, strict=True)),
                **call.arguments,
                preferred_element_type=call.result,
            )
            for pair, call in zip(parameters, program.calls, strict=True)
        ]

    compiled = jax.jit(convolutions).lower(parameters).compile()
    once = lambda: jax.block_until_ready(compiled(parameters))  # noqa: E731
    if program.threads == 1:
        runs = [once()]
    else:
        with futures.ThreadPoolExecutor(program.threads) as pool:
            runs = [run.result() for run in [pool.submit(once) for _ in range(program.threads)]]
    if guard.present:
        for result in runs[0]:
            if guard.size(result.unsafe_buffer_pointer()) != result.nbytes:
                raise AssertionError(f"a result of {result.nbytes} bytes is not guarded")
    findings = []
    for number, (call, pair) in enumerate(zip(program.calls, given, strict=True)):
        expected = truth.expectation(call, *pair)
        for results in runs:
            if found := truth.wrong(np.asarray(results[number]), expected):
                findings.append((call, found))
                break
    # What lies around the arrays is looked at when they are freed: here, where the program is known.
    for array in [*(x for pair in parameters for x in pair), *(y for results in runs for y in results)]:
        array.delete()
    return findings


def attempt(text: str, number: int = 0) -> None:
    """Runs a program and reports it: first itself, then what is wrong."""
    given = json.loads(text)
    report(event="program", number=number, draws=len(given.get("calls", [1])), program=text)
    if "case" in given:
        from . import own_programs  # which needs Hypothesis

        guard.place(given["guard"])
        if what := own_programs.run(given, placed):
            report(event="finding", what=what, program=text)
        return
    program = Program.read(text)
    for call, what in run(program):
        report(event="finding", what=what, program=program.alone(call).text())


def batch(order: dict[str, Any]) -> None:
    refusals = Refusals(order["refusals"])
    if order["kind"] in METHODS:
        from . import own_programs

        drawn = own_programs.drawn(order)
    else:
        randoms = random.Random(f"{order['seed']} {order['kind']} {order['dtype']} {order['batch']}")
        asked = order["kind"], order["dtype"], order["draws"], order["pool"]
        drawn = (program.text() for program in programs(randoms, *asked, refusals))
    for number, text in enumerate(drawn):
        if number >= order["skip"]:
            attempt(text, number)
    report(event="end", refused=refusals.seen)


def main() -> None:
    # What libraries print must not be among the reports.
    sys.__stdout__ = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    open_gate()
    report(event="ready", guarded=guard.present, jaxlib=onednn.version.__version__)
    for line in sys.stdin:
        order = json.loads(line)
        if "program" in order:
            attempt(order["program"])
            report(event="end", refused={})
        else:
            batch(order)


if __name__ == "__main__":
    main()
