"""What was found: the state of a run, which is its report too, and the rows of jdeconv's table of evidence."""

import datetime
import json
import pathlib
from typing import Any

from . import environments

Row = dict[str, Any]
KEYS = ("jaxlib", "isa", "dtype", "class")


class State:
    """A run that may be interrupted: written after each batch, found again by what was asked for."""

    def __init__(self, path: pathlib.Path, asked: dict[str, Any]) -> None:
        self.path = path
        self.asked = asked
        self.classes: dict[str, dict[str, Any]] = {}
        if path.exists():
            stored = json.loads(path.read_text())
            if stored["asked"] != asked:
                raise SystemExit(f"{path} is of another run: {stored['asked']}, not {asked}; choose another --out")
            self.classes = stored["classes"]

    def of(self, kind: str) -> dict[str, Any]:
        return self.classes.setdefault(kind, dict(draws=0, batches=0, seconds=0.0, findings=[], refused={}))

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.with_suffix(".new")
        given = dict(asked=self.asked, processor=environments.processor(), classes=self.classes)
        written.write_text(json.dumps(given, indent=1) + "\n")
        written.replace(self.path)
        self.path.with_suffix(".md").write_text(self.markdown())

    @property
    def findings(self) -> list[dict[str, Any]]:
        return [finding for given in self.classes.values() for finding in given["findings"]]

    def line(self, finding: dict[str, Any]) -> str:
        """What to paste to see a finding again."""
        given = self.asked
        engine = "--engine xla" if given["isa"] == "xla" else f"--isa {given['isa']}"
        return (
            f"python tests/engine/proof --jaxlib {given['jaxlib']} {engine} --dtype {given['dtype']} "
            f"--call '{finding['program']}'"
        )

    def markdown(self) -> str:
        given = self.asked
        seconds, draws = (sum(entry[name] for entry in self.classes.values()) for name in ("seconds", "draws"))
        lines = [
            f"# jaxlib {given['jaxlib']}, {given['isa']}, {given['dtype']}, seed {given['seed']}",
            "",
            f"{environments.processor()}; {'between guard pages' if given['guarded'] else 'without guard pages'}; "
            f"{1000 * seconds / max(draws, 1):.0f} s a thousand draws.",
            "",
            "| class | draws | faults | refused, and not counted |",
            "|---|---|---|---|",
        ]
        for kind, entry in sorted(self.classes.items()):
            refused = ", ".join(f"{count} {reason}" for reason, count in sorted(entry["refused"].items()))
            lines.append(f"| {kind} | {entry['draws']} | {len(entry['findings'])} | {refused} |")
        for finding in self.findings:
            lines += ["", f"{finding['what']}", "", "```sh", self.line(finding), "```"]
        return "\n".join(lines) + "\n"

    def rows(self) -> list[Row]:
        given = self.asked
        return [
            {
                **{key: given[key] for key in ("jaxlib", "isa", "dtype")},
                "class": kind,
                "draws": entry["draws"],
                "seeds": [given["seed"]],
                "date": datetime.date.today().isoformat(),
                "processor": environments.processor(),
                "faults": len(entry["findings"]),
                "refusals": sorted(set(entry["refused"]) - {"sizes that oneDNN is not asked for"}),
                "guarded": given["guarded"],
            }
            for kind, entry in self.classes.items()
            if entry["draws"]
        ]


def record(path: pathlib.Path, rows: list[Row]) -> None:
    """Adds rows to the table: draws of a new seed to those of the others.

    A row is replaced where the seed is its only one, and where it was drawn without guard pages or on another version.
    """
    table = json.loads(path.read_text())["rows"] if path.exists() else []
    for new in rows:
        same = [row for row in table if all(row[key] == new[key] for key in KEYS)]
        table = [row for row in table if row not in same]
        table.append(merged(same[0], new) if same else new)
    table.sort(key=lambda row: ([int(part) for part in row["jaxlib"].split(".")], *(row[key] for key in KEYS[1:])))
    lines = ",\n".join(f"  {json.dumps(row)}" for row in table)
    path.write_text(f'{{"schema": 1, "rows": [\n{lines}\n]}}\n')


def merged(old: Row, new: Row) -> Row:
    if old["seeds"] == new["seeds"] or new["guarded"] > old["guarded"] or "same_onednn_as" in old:
        return new
    if new["guarded"] < old["guarded"]:
        raise SystemExit(f"drawn without guard pages, but recorded with them: {old}")
    if set(old["seeds"]) & set(new["seeds"]):
        raise SystemExit(f"seed {new['seeds']} is recorded among others: {old}; take a new one")
    return {
        **new,
        "draws": old["draws"] + new["draws"],
        "seeds": sorted(old["seeds"] + new["seeds"]),
        "faults": old["faults"] + new["faults"],
        "refusals": sorted({*old["refusals"], *new["refusals"]}),
        "guarded": new["guarded"],
    }
