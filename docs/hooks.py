"""Replaces `<!-- KIND: NAME -->` in pages by what it names, such as a figure, or the table of rules: see `KINDS`."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import figures
from mkdocs.exceptions import PluginError

from jdeconv._engine.evidence import rows
from jdeconv._explain import PASSES
from jdeconv._plan.features import FEATURES, Feature
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
        return KINDS[kind](name)
    except KeyError as missing:
        raise PluginError(f"{comment[0]}: there is no {missing}") from None


def figure(name: str) -> str:
    return f"<figure>\n{figures.FIGURES[name](BENCHMARKS.read_text())}\n</figure>"


def rules(_: None) -> str:
    """The planner's table, in the order in which it is searched."""
    rows = [(*scope(rule), f"`{rule.method}`", rule.evidence) for rule in RULES]
    return table("platform, engine, result, where, method, evidence", rows)


def features(_: None) -> str:
    """What rules compare, with the words for it in the table."""
    rows = [(f"`{name}`", words(feature), feature.meaning) for name, feature in FEATURES.items()]
    return table("feature, in words, meaning", rows)


def words(feature: Feature) -> str:
    """A number's, without its count; a fact's, where it holds and where not."""
    is_fact = feature.of.__annotations__["return"] is bool
    return f"{feature.one}, or {feature.many}" if is_fact else feature.many


def variants(_: None) -> str:
    """The table of variants, in the order in which it is searched."""
    rows = [(*scope(row), any_or(row.method), row.name) for row in VARIANT_RULES]
    return table("platform, engine, result, where, method, variant", rows)


def evidence(_: None) -> str:
    """The table of evidence for oneDNN's calls; classes that share all else share a row."""
    classes: dict[tuple[str, ...], list[str]] = {}
    for row in rows():
        draws, seeds = f"{row['draws']:,}", ", ".join(map(str, row["seeds"]))
        if same := row.get("same_onednn_as"):
            draws += f" of {same}, the same oneDNN"
        elif seeds:
            draws += f" (seeds {seeds})"
        guarded = "yes" if row["guarded"] else "no"
        where = ", ".join(filter(None, (row["processor"], row["date"])))
        key = row["jaxlib"], f"`{row['isa']}`", row["dtype"], draws, guarded, str(row["faults"])
        classes.setdefault((*key, where, "; ".join(row["refusals"])), []).append(row["class"])
    lines = [(*key[:3], "; ".join(found), *key[3:]) for key, found in classes.items()]
    return table("jaxlib, instructions, type, classes, calls a class, guarded, faults, where and when, refused", lines)


def scope(row: Rule | VariantRule) -> tuple[str, str, str, str]:
    """Platform, engine, result, and where a row holds."""
    results = " ".join(f"{PASSES.get(result, result)}," for result in row.result.split()).rstrip(",")
    return any_or(row.platform), any_or(row.engine), any_or(results), where(row)


def where(row: Rule | VariantRule) -> str:
    """Made of a rule's ranges; of a variant, what its predicate says."""
    return row.text if isinstance(row, Rule) else " ".join((row.when.__doc__ or "").split())


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


KINDS = {
    "figure": figure,
    "rules": rules,
    "features": features,
    "variants": variants,
    "evidence": evidence,
    "readme": readme,
}
