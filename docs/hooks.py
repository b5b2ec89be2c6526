"""Replaces `<!-- figure: NAME -->`, `<!-- rules -->` and `<!-- readme: HEADING -->` in pages by what they name."""

import pathlib
import re
from typing import Any

import figures
from mkdocs.exceptions import PluginError

from jdeconv._explain import PASSES
from jdeconv._plan.rules import RULES

README = pathlib.Path(__file__).parent.parent / "README.md"


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"^<!-- (\w+)(?:: (.+))? -->$", _generated, markdown, flags=re.M)


def _generated(comment: re.Match[str]) -> str:
    kind, name = comment.groups()
    try:
        return {"figure": figure, "rules": rules, "readme": readme}[kind](name)
    except KeyError as missing:
        raise PluginError(f"{comment[0]}: there is no {missing}") from None


def figure(name: str) -> str:
    return f"<figure>\n{figures.FIGURES[name](README.read_text())}\n</figure>"


def rules(_: None) -> str:
    """The planner's table, in the order in which it is searched."""
    rows = [("platform", "engine", "result", "where", "method", "evidence"), ("---",) * 6]
    rows += [
        (
            *(any_or(name) for name in (rule.platform, rule.engine, PASSES.get(rule.result, rule.result))),
            " ".join((rule.when.__doc__ or "").split()),
            f"`{rule.method}`",
            rule.evidence,
        )
        for rule in RULES
    ]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows)


def any_or(name: str) -> str:
    return "any" if name == "*" else name


def readme(heading: str) -> str:
    """The text under one of the README's headings, its links as a page at the root has them."""
    sections = dict(re.findall(r"^## (.+)\n\n((?:(?!## ).*\n)*)", README.read_text(), flags=re.M))
    return sections[heading].replace("](docs/pages/", "](")
