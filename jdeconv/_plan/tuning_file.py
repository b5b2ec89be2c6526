"""Measurements as a file of JSON: written beside its place and renamed, read and checked as a whole. No JAX here."""

import json
import math
import os
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

from .._errors import refusal
from .._geometry import Geometry
from .choose import Choice
from .engine_kind import EngineKind
from .problem import Problem
from .tuning import Entry, Measurements, Operation, Timing

SCHEMA, VERSION = "jdeconv tuning", 1
ENGINE_WORDS = ("onednn", "bfloat16", "amx")
SPATIAL = ("input", "kernel", "output", "strides", "dilations", "low")

T = TypeVar("T")


class _Fault(Exception):
    """What is wrong with a file, and what was expected."""


def write(measurements: Measurements, path: str | os.PathLike[str]) -> None:
    """Writes the file whole: a reader, and another writer at the same time, find either the old one or the new one."""
    content = {
        "schema": SCHEMA,
        "version": VERSION,
        "left_out": list(measurements.left_out),
        "entries": [_entry_as_json(entry) for entry in measurements.entries],
    }
    target = os.path.realpath(os.fspath(path))  # a link stays a link
    aside = f"{target}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        with open(aside, "x", encoding="utf-8") as file:
            json.dump(content, file, indent=1, allow_nan=False)
            file.write("\n")
        os.replace(aside, target)
    except BaseException:
        if os.path.exists(aside):
            os.unlink(aside)
        raise


def read(path: str | os.PathLike[str], argument: str = "path") -> Measurements:
    """The measurements in a file. Raises ValueError, which names the `argument`, for anything but a whole one."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(argument, path, f"no JSON ({error})", "expected a file that a Tuning saved") from error
    try:
        return _measurements(content)
    except _Fault as fault:
        problem, expected = fault.args
        raise _refusal(argument, path, problem, expected) from None


def _refusal(argument: str, path: str | os.PathLike[str], problem: str, expected: str) -> Exception:
    mend = "Run autotune again and save what it returns."
    return refusal(ValueError, argument, repr(os.fspath(path)), problem, expected, mend)


# To JSON.


def _entry_as_json(entry: Entry) -> dict[str, Any]:
    operation = entry.operation
    problem, geometry = operation.problem, operation.problem.geometry
    return {
        "device": entry.device,
        "jaxlib": entry.jaxlib,
        "result": problem.result,
        **{name: list(getattr(geometry, name)) for name in SPATIAL},
        "batch": problem.batch,
        "groups": problem.groups,
        "inputs": problem.inputs,
        "outputs": problem.outputs,
        "dtype": problem.dtype,
        "operands_dtype": operation.operands,
        "result_dtype": operation.dtype,
        "precision": operation.precision,
        "default": _choice_as_json(entry.default),
        "best": _choice_as_json(entry.best),
        "candidates": [
            {**_choice_as_json(timing.choice), "ms": timing.ms, "reason": timing.reason} for timing in entry.timings
        ],
    }


def _choice_as_json(choice: Choice) -> dict[str, str]:
    return {"method": choice.method, "variant": choice.variant, "engine": str(choice.engine)}


# From JSON: each function takes where it is in the file, for what it raises.


def _measurements(content: Any) -> Measurements:
    whole = _object(content, "the file")
    if whole.get("schema") != SCHEMA:
        raise _Fault(f"'schema' is {_short(whole.get('schema'))}", f"expected {SCHEMA!r}")
    if whole.get("version") != VERSION or isinstance(whole["version"], bool):
        raise _Fault(f"version {_short(whole.get('version'))} of the schema", f"expected version {VERSION}")
    entries = _list(_get(whole, "entries", "the file"), "'entries'", _entry)
    return Measurements(entries, _list(whole.get("left_out", []), "'left_out'", _string))


def _entry(value: Any, where: str) -> Entry:
    given = _object(value, where)

    def take(name: str, check: Callable[[Any, str], T]) -> T:
        return check(_get(given, name, where), f"{name!r} of {where}")

    sizes = {name: tuple(take(name, _integers if name == "low" else _counts)) for name in SPATIAL}
    rank = len(sizes["input"])
    if any(len(entries) != rank for entries in sizes.values()):
        raise _Fault(
            f"{where} has {', '.join(SPATIAL)} of different lengths", "expected one number a dimension in each"
        )
    if min((*sizes["strides"], *sizes["dilations"]), default=1) < 1:
        raise _Fault(f"{where} has strides or dilations of 0", "expected 1 and more")
    result = take("result", _string)
    if result not in ("input", "kernel", "output"):
        raise _Fault(f"'result' of {where} is {result!r}", "expected 'input', 'kernel' or 'output'")
    batch, groups, inputs, outputs = (take(name, _count) for name in ("batch", "groups", "inputs", "outputs"))
    problem = Problem(Geometry(**sizes), result, batch, groups, inputs, outputs, take("dtype", _string))
    types = (take(name, _string) for name in ("operands_dtype", "result_dtype", "precision"))
    return Entry(
        take("device", _string),
        take("jaxlib", _string),
        Operation(problem, *types),
        take("default", _choice),
        take("best", _choice),
        tuple(take("candidates", lambda value, where: _list(value, where, _timing))),
    )


def _choice(value: Any, where: str) -> Choice:
    given = _object(value, where)
    method, variant, engine = (
        _string(_get(given, name, where), f"{name!r} of {where}") for name in ("method", "variant", "engine")
    )
    words = engine.split()
    if words != ["xla"] and (words[:1] != ["onednn"] or not {*words} <= {*ENGINE_WORDS}):
        raise _Fault(f"'engine' of {where} is {engine!r}", f"expected 'xla', or 'onednn' and more of {ENGINE_WORDS}")
    return Choice(method, variant, EngineKind(**{word: True for word in words if word != "xla"}), None)


def _timing(value: Any, where: str) -> Timing:
    given = _object(value, where)
    ms, reason = given.get("ms"), given.get("reason")
    number = isinstance(ms, int | float) and not isinstance(ms, bool) and math.isfinite(ms) and ms > 0
    if ms is not None and not number:
        raise _Fault(f"'ms' of {where} is {_short(ms)}", "expected milliseconds above 0, or null")
    return Timing(_choice(given, where), ms, None if reason is None else _string(reason, f"'reason' of {where}"))


def _get(given: dict[str, Any], name: str, where: str) -> Any:
    if name not in given:
        raise _Fault(f"{where} has no {name!r}", "expected one")
    return given[name]


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Fault(f"{where} is {_short(value)}", "expected an object")
    return value


def _list(value: Any, where: str, check: Callable[[Any, str], T]) -> list[T]:
    if not isinstance(value, list):
        raise _Fault(f"{where} is {_short(value)}", "expected a list")
    return [check(item, f"item {number} of {where}") for number, item in enumerate(value)]


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _Fault(f"{where} is {_short(value)}", "expected a string")
    return value


def _integer(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Fault(f"{where} is {_short(value)}", "expected an integer")
    return value


def _count(value: Any, where: str) -> int:
    if _integer(value, where) < 0:
        raise _Fault(f"{where} is {value}", "expected 0 or more")
    return value


def _integers(value: Any, where: str) -> list[int]:
    return _list(value, where, _integer)


def _counts(value: Any, where: str) -> list[int]:
    return _list(value, where, _count)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
