"""The committed problems: what is timed on every processor, in order of priority."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

from jdeconv._geometry import Geometry
from jdeconv._plan.problem import Problem

GEOMETRIES = pathlib.Path(__file__).parent / "geometries.json"
HELD_OUT = 3
"""One geometry in so many is never used to fit rules."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One result of one geometry in one dtype, by a name of three parts: `dcgan16/output/float32`."""

    name: str
    problem: Problem
    operands: str
    """The dtype of the operands; `problem.dtype` is the result's."""

    @property
    def held_out(self) -> bool:
        """Decided by the geometry's name, so that its other results and dtypes are on the same side."""
        return hashlib.sha256(self.name.split("/")[0].encode()).digest()[0] % HELD_OUT == 0

    @functools.cached_property
    def digest(self) -> str:
        """Of all sizes and dtypes: times that belong to another problem of this name are found by it."""
        return hashlib.sha256(json.dumps(self.as_data()).encode()).hexdigest()[:6]

    def as_data(self) -> dict[str, Any]:
        """The item as JSON has it."""
        return {"name": self.name, "operands": self.operands, **dataclasses.asdict(self.problem)}


def from_data(data: dict[str, Any]) -> Item:
    """The item that `as_data` gave."""
    sizes = dict(data)
    name, operands = sizes.pop("name"), sizes.pop("operands")
    geometry = Geometry(**{field: tuple(values) for field, values in sizes.pop("geometry").items()})
    return Item(name, Problem(geometry, **sizes), operands)


def read(path: pathlib.Path = GEOMETRIES) -> list[Item]:
    """The problems of a file, the most important first."""
    return [from_data(data) for data in json.loads(path.read_text(encoding="utf-8"))]


def write(items: list[Item], path: pathlib.Path = GEOMETRIES) -> None:
    """One problem a line."""
    lines = (json.dumps(item.as_data(), separators=(",", ":")) for item in items)
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
