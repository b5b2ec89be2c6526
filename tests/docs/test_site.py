"""The documentation's site builds without a warning, and its pages load nothing from elsewhere.

Without MkDocs these tests are skipped, unless JDECONV_DOCS=1 (CI sets it).
"""

import html
import html.parser
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import urllib.parse

import pytest

from jdeconv._engine import evidence
from jdeconv._plan.method_table import RULES

ROOT = pathlib.Path(__file__).parents[2]
ABSENT = importlib.util.find_spec("mkdocs") is None

if ABSENT and os.environ.get("JDECONV_DOCS") == "1":
    raise RuntimeError("JDECONV_DOCS=1, but mkdocs is not installed (pip install 'jdeconv[docs]')")
pytestmark = pytest.mark.skipif(ABSENT, reason="mkdocs is not installed (pip install 'jdeconv[docs]')")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ROOT / "docs/mkdocs.yml", "-d", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stderr
    return folder


class Loaded(html.parser.HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self, text):
        super().__init__()
        self.addresses = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        names = {"link": ["href"], "a": []}.get(tag, ["src", "srcset", "data", "poster"])
        self.addresses += [value for name, value in attributes if name in names and value]


def test_pages_load_only_what_the_site_holds(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs/pages").rglob("*.md")))  # and a page for what is not found
    for page in pages:
        addresses = Loaded(page.read_text()).addresses
        assert len(addresses) >= 3, page
        for address in addresses:
            parts = urllib.parse.urlsplit(address)
            assert (parts.scheme, parts.netloc) == ("", ""), (page, address)
            base = site if parts.path.startswith("/") else page.parent
            assert (base / parts.path.lstrip("/")).exists(), (page, address)


def test_styles_load_nothing(site):
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        assert re.findall(r"@import|url\(\s*[\"']?(?:\w+:)?//", style.read_text()) == [], style


def test_the_planners_page_has_every_rule_in_order(site):
    text = html.unescape(re.sub(r"<.*?>", "", (site / "planner.html").read_text()))
    at = [text.index(rule.evidence) for rule in RULES]
    assert at == sorted(at)
    assert len(set(at)) == len(RULES)


def test_the_page_on_onednn_has_all_evidence(site):
    table = (site / "onednn.html").read_text().split("<table>")[-1].partition("</table>")[0]
    lines = [[html.unescape(re.sub(r"<.*?>", "", cell)).strip() for cell in line.split("<td>")[1:]]
             for line in table.split("<tr>")[2:]]  # fmt: skip
    for row in evidence.rows():
        key = [row["jaxlib"], row["isa"], row["dtype"]]
        (line,) = [line for line in lines if line[:3] == key and row["class"] in line[3].split("; ")]
        assert line[4].split(" ")[0] == f"{row['draws']:,}"
        assert (line[6], line[-1]) == (str(row["faults"]), "; ".join(row["refusals"]))


def test_every_figure_is_drawn(site):
    asked = sum(len(re.findall(r"<!-- figure: ", page.read_text())) for page in (ROOT / "docs/pages").rglob("*.md"))
    drawn = sum(page.read_text().count("<figure>\n<svg ") for page in site.rglob("*.html"))
    assert drawn == asked > 8
