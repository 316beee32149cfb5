"""The built docs: nothing comes from elsewhere, no link is dead, and pages read well at any width.

`make docs` builds them and runs these; the browser is the one of the report's tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import browsing
import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "_build" / "html"
WIDTHS = (390, 1100, 1600)  # a phone, a laptop, a large screen
pytestmark = pytest.mark.site
in_browser = pytest.mark.skipif(
    bool(browsing.what_is_missing()), reason=str(browsing.what_is_missing())
)


@dataclass
class Page(HTMLParser):
    """What a page loads, links to, and can be linked to by."""

    loads: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    pictures_without_words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("index", "search", "next", "prev"):
            self.loads.append(given["href"])
        elif tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.loads += [given[name] for name in ("src", "srcset") if name in given]
        elif tag == "object":
            self.loads.append(given.get("data", ""))
        if tag == "img" and not given.get("alt"):
            self.pictures_without_words.append(given.get("src", ""))


@cache
def read(file: Path) -> Page:
    page = Page()
    page.feed(file.read_text(encoding="utf-8"))
    return page


def site() -> list[Path]:
    found = sorted(SITE.rglob("*.html"))
    assert found, "docs/_build/html is empty: run `make docs`"
    return found


def name(file: Path) -> str:
    return file.relative_to(SITE).as_posix()


def test_every_page_of_the_docs_is_built():
    assert {"index.html", "search.html", "reference/api.html"} <= {name(f) for f in site()}
    assert len(site()) > 35


def test_pages_load_nothing_from_elsewhere():
    for file in site():
        for target in read(file).loads:
            assert not urlsplit(target).scheme and not target.startswith("//"), (name(file), target)
            assert (file.parent / unquote(urlsplit(target).path)).is_file(), (name(file), target)


def test_styles_load_nothing_from_elsewhere():
    for file in SITE.rglob("*.css"):
        text = file.read_text(encoding="utf-8")
        for target in re.findall(r"(?:url\(|@import\s+)['\"]?([^'\")\s;]+)", text):
            assert not target.startswith(("http:", "https:", "//")), (name(file), target)


def test_no_internal_link_is_dead():
    dead = []
    for file in site():
        for link in read(file).links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto"):
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.is_file():
                dead.append((name(file), link))
            elif parts.fragment and target.suffix == ".html":
                names = read(target).names
                if unquote(parts.fragment) not in names and parts.fragment not in names:
                    dead.append((name(file), link))
    assert dead == []


def test_every_picture_says_in_words_what_it_shows():
    for file in site():
        assert read(file).pictures_without_words == [], name(file)


@pytest.fixture(scope="module")
def browser():
    with browsing.running() as running:
        yield running


@in_browser
def test_no_page_scrolls_sideways_nor_asks_a_network(browser):
    wide = []
    for file in site():
        with browser.open(file, viewport={"width": WIDTHS[0], "height": 900}) as page:
            for width in WIDTHS:
                page.resize(width, 900)
                inner, outer = page.evaluate(
                    "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
                )
                if inner > outer:
                    wide.append((name(file), width, inner))
            asked = [u for u in page.ask("requests") if not u.startswith(("file:", "data:"))]
            assert asked == [], name(file)
    assert wide == []


@in_browser
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("induction", "tutorials/induction-heads.html"),
        ("buffer_bytes", "reference/config.html"),
        ("resume", "how-to/resume.html"),
    ],
)
def test_search_finds_the_page(browser, words, found):
    with browser.open(SITE / "search.html", viewport={"width": 390, "height": 900}) as page:
        page.evaluate(f"Search.query ? Search.performSearch({words!r}) : 0")
        page.wait("document.querySelectorAll('#search-results li a').length > 0")
        page.wait(
            "[...document.querySelectorAll('#search-results li a')]"
            f".some((a) => a.getAttribute('href').includes({found!r}))"
        )
