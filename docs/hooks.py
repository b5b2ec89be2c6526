"""Replaces `<!-- KIND: NAME -->` in pages, of kind figure, rules, variants or readme, by what it names."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import figures
from mkdocs.exceptions import PluginError

from jdeconv._explain import PASSES
from jdeconv._plan.method_table import RULES
from jdeconv._plan.rule import Rule
from jdeconv._plan.variant_table import VARIANT_RULES, VariantRule

README = pathlib.Path(__file__).parent.parent / "README.md"
BENCHMARKS = pathlib.Path(__file__).parent / "pages/benchmarks.md"


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"^<!-- (\w+)(?:: (.+))? -->$", _generated, markdown, flags=re.M)


def _generated(comment: re.Match[str]) -> str:
    kind, name = comment.groups()
    try:
        return {"figure": figure, "rules": rules, "variants": variants, "readme": readme}[kind](name)
    except KeyError as missing:
        raise PluginError(f"{comment[0]}: there is no {missing}") from None


def figure(name: str) -> str:
    return f"<figure>\n{figures.FIGURES[name](BENCHMARKS.read_text())}\n</figure>"


def rules(_: None) -> str:
    """The planner's table, in the order in which it is searched."""
    rows = [(*scope(rule), f"`{rule.method}`", rule.evidence) for rule in RULES]
    return table("platform, engine, result, where, method, evidence", rows)


def variants(_: None) -> str:
    """The table of variants, in the order in which it is searched."""
    rows = [(*scope(row), any_or(row.method), row.name) for row in VARIANT_RULES]
    return table("platform, engine, result, where, method, variant", rows)


def scope(row: Rule | VariantRule) -> tuple[str, str, str, str]:
    """Platform, engine, result, and where a row holds."""
    results = " ".join(f"{PASSES.get(result, result)}," for result in row.result.split()).rstrip(",")
    return any_or(row.platform), any_or(row.engine), any_or(results), " ".join((row.when.__doc__ or "").split())


def any_or(names: str) -> str:
    return "any" if names == "*" else names


def table(heads: str, rows: Sequence[Sequence[str]]) -> str:
    columns = heads.split(", ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def readme(heading: str) -> str:
    """The text under one of the README's headings, its links as a page at the root has them."""
    sections = dict(re.findall(r"^## (.+)\n\n((?:(?!## ).*\n)*)", README.read_text(), flags=re.M))
    return sections[heading].replace("](docs/pages/", "](")
