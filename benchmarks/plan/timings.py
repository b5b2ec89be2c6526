"""The file of one processor: the times of each problem's candidates, kept small enough to commit."""

import dataclasses
import datetime
import json
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from jdeconv._plan.engine_kind import EngineKind

from .problems import Item
from .timing import Taken

FOLDER = pathlib.Path(__file__).parent / "timings"
SCHEMA = 1
MACHINE = ("device", "jaxlib", "engines")


class Foreign(Exception):
    """The file's times were taken on another machine, or by other code."""


@dataclasses.dataclass
class Timings:
    """What was timed on one processor."""

    machine: dict[str, Any]
    """The device: processor, instruction sets, threads; jaxlib's version, the engine of each dtype, and the date."""
    problems: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """By name: the problem's digest, and by candidate its milliseconds, seconds to compile and a note."""

    def engine(self, dtype: str) -> EngineKind:
        """What runs the convolutions of a dtype there, as the planner sees it."""
        words = self.machine["engines"].get(dtype, "xla").split()
        return EngineKind(**{word: True for word in words if word != "xla"})

    def has(self, item: Item) -> bool:
        """Whether the problem, of these very sizes, was timed."""
        return self.problems.get(item.name, {}).get("digest") == item.digest

    def times(self, item: Item) -> dict[str, float]:
        """The milliseconds of each candidate that was right."""
        ways = self.problems[item.name]["ways"]
        return {way: ms for way, (ms, *_) in ways.items() if ms is not None}

    def add(self, item: Item, found: dict[str, Taken]) -> None:
        """Adds a problem."""
        ways = {
            way: [_short(taken.ms), _short(taken.compile_s), *([taken.note] if taken.note else [])]
            for way, taken in found.items()
        }
        self.problems[item.name] = {"digest": item.digest, "ways": ways}

    def save(self, path: pathlib.Path) -> None:
        """Writes the file, a problem a line, aside first: a run that is stopped leaves a whole file."""
        self.machine["date"] = datetime.date.today().isoformat()
        lines = (f"{json.dumps(name)}:{_compact(row)}" for name, row in self.problems.items())
        text = f'{{"schema":{SCHEMA},"machine":{_compact(self.machine)},"problems":{{\n' + ",\n".join(lines) + "\n}}\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)


def load(path: pathlib.Path) -> Timings:
    """The file at `path`. Raises Foreign if another version of this program wrote it."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if data.get("schema") != SCHEMA:
        raise Foreign(f"{path}: schema {data.get('schema')}; expected {SCHEMA}. Time the problems anew.")
    return Timings(data["machine"], data["problems"])


def resumed(path: pathlib.Path, machine: dict[str, Any], items: Iterable[Item]) -> Timings:
    """The file at `path`, without problems that have changed since; a new one if there is none.

    Raises Foreign if it is another machine's.
    """
    if not path.exists():
        return Timings(machine)
    found = load(path)
    if different := [name for name in MACHINE if found.machine[name] != machine[name]]:
        name = different[0]
        raise Foreign(
            f"{path}: {name} {found.machine[name]!r}, here {machine[name]!r}; expected the same. Move the file away to "
            "time all problems anew."
        )
    known = [item for item in items if found.has(item)]
    found.problems = {item.name: found.problems[item.name] for item in known}
    return found


def file_name(machine: dict[str, Any]) -> str:
    """The device's name as a file's, as in `amd-epyc-avx2-2-threads.json`."""
    words = re.sub(r"^cpu:|\((r|tm)\)", "", machine["device"].lower())
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-") + ".json"


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
