"""The page's geometry in a real browser: labels beside what they name, nothing pushed off.

Where things are comes from the browser's own boxes; where they belong is worked out here.
"""

from __future__ import annotations

import browsing
import numpy as np
import pytest
import report_traces
from report_traces import attention, attention_site
from tiny_traces import site

MISSING = browsing.what_is_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

LENGTHS = (1, 2, 3, 4, 13, 40, 600)
WIDTHS = (390, 1100, 1600)
TOKENS = ["a", " token", "\u05e9\u05dc\u05d5\u05dd", "日本語のテキスト", "🙂", "x" * 90, "\n", " "]

# Each label with the centre of its box; and the box of what it stands beside.
BOXES = """((host) => {
  const side = (name, centre) => [...document.querySelectorAll(`${host} .labels.${name} > span`)]
    .map((label) => { const box = label.getBoundingClientRect();
      return [label.textContent, centre(box), box.height, box.width]; });
  const { left, top, width, height } =
    document.querySelector(`${host} .plot, ${host} .heads`).getBoundingClientRect();
  const canvas = document.querySelector(`${host} canvas`).getBoundingClientRect();
  return { rows: side("rows", (box) => (box.top + box.bottom) / 2 - top),
    columns: side("columns", (box) => (box.left + box.right) / 2 - left),
    size: [width, height], canvas: [canvas.width, canvas.height] };
})"""


@pytest.fixture(scope="module")
def browser():
    with browsing.running() as running:
        yield running


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder, n_tokens = tmp_path_factory.mktemp("layout"), sum(LENGTHS)
    draw = np.random.default_rng(0)
    rows = [(attention_site(0, 1, max(LENGTHS)), attention(draw, LENGTHS, 1))]
    norms = {"row_shape": (), "axes": ("token",), "portable": "resid_post"}
    details = {"einops": "token d -> token", "einops_op": "norm"}
    rows += [
        (site(f"h.{n}", layer=n, details=details, **norms), draw.uniform(1, 2, n_tokens))
        for n in range(3)
    ]
    vocabulary = TOKENS * 7
    trace = report_traces.write(folder / "t", rows, LENGTHS, vocabulary=vocabulary)
    return trace.report(folder / "r.html").path


def drawn(page, example):
    page.evaluate("performance.clearMarks('head drawn')")
    if page.evaluate("document.querySelector('#example').selectedIndex") != example:
        page.select("#example", example)
        page.wait("performance.getEntriesByName('head drawn').length")
    page.wait("document.querySelector('#strip [aria-selected]')")


def check_labels(found, n_rows, n_columns):
    """Every label stands at the centre of its own cell; none lies over the next."""
    wide, high = found["size"]
    assert found["canvas"] == pytest.approx(found["size"], abs=0.5)
    for name, count, length, thick in (("rows", n_rows, high, 2), ("columns", n_columns, wide, 3)):
        labels, pitch = found[name], length / count
        shown = len(labels)
        assert shown
        step = 1 if shown == count else int(labels[1][0]) if shown > 1 else count
        for at, label in enumerate(labels):
            assert label[1] == pytest.approx((at * step + 0.5) * pitch, abs=0.6), (name, label)
            if shown < count:
                assert label[0] == str(at * step)
        if shown > 1:
            assert max(label[thick] for label in labels) <= step * pitch + 1, name


@pytest.mark.parametrize("width", WIDTHS)
def test_labels_stand_beside_their_rows_and_columns(browser, report, width):
    with browser.open(report, viewport={"width": width, "height": 900}) as page:
        for example, n in enumerate(LENGTHS):
            drawn(page, example)
            check_labels(page.evaluate(f"{BOXES}('#head-map')"), n, n)
            check_labels(page.evaluate(f"{BOXES}('#stream-map')"), 3, n)
            assert page.evaluate("document.documentElement.scrollWidth") <= width


# Larger text alone, the whole page larger, denser pixels, and a font that is not there.
CHANGES = {
    "text": "document.documentElement.style.fontSize = '26px'",
    "page": "document.documentElement.style.zoom = '1.5'",
    "font": "document.documentElement.style.setProperty('--mono', 'serif')",
}


@pytest.mark.parametrize("change", CHANGES)
def test_labels_follow_zoom_and_fonts(browser, report, change):
    screen = {"viewport": {"width": 1100, "height": 900}, "deviceScaleFactor": 1.25}
    with browser.open(report, **screen) as page:
        page.evaluate(CHANGES[change])
        for example in (1, 3, 4, 5):
            drawn(page, example)
            page.evaluate(
                "new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))"
            )
            found = page.evaluate(f"{BOXES}('#head-map')")
            check_labels(found, LENGTHS[example], LENGTHS[example])


def test_pictures_of_heads_stand_below_their_numbers(browser, tmp_path):
    draw = np.random.default_rng(0)
    rows = [(attention_site(n, 20, 5), attention(draw, (5,), 20)) for n in range(12)]
    trace = report_traces.write(tmp_path / "t", rows, (5,))
    path = trace.report(tmp_path / "r.html").path
    for width in (390, 1100):
        with browser.open(path, viewport={"width": width, "height": 900}) as page:
            drawn(page, 0)
            page.wait("document.querySelector('.headgrid .labels.rows span')")
            found = page.evaluate(f"{BOXES}('.headgrid')")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            pitch = found["size"][0] / 20
            assert found["size"][1] == pytest.approx(12 * pitch)
            for name in ("rows", "columns"):
                for text, centre, *_ in found[name]:
                    assert centre == pytest.approx((int(text) + 0.5) * pitch, abs=0.6)


def test_no_token_is_broken_and_nothing_is_pushed_off_a_phone(browser, report):
    with browser.open(report, viewport={"width": 390, "height": 844}, isMobile=True) as page:
        drawn(page, 5)
        lines = page.evaluate(
            "[...document.querySelectorAll('.token')].filter((e) => e.offsetParent)"
            ".map((e) => e.getClientRects().length)"
        )
        assert len(lines) > 80
        assert set(lines) == {1}
        outside = page.evaluate(
            "[...document.querySelectorAll('main *, nav *, header *')].filter((e) =>"
            " e.offsetParent && !e.closest('.scroll, .config, .labels')"
            " && e.getBoundingClientRect().right > 391).map((e) => e.outerHTML.slice(0, 80))"
        )
        assert outside == []
        assert page.ask("complaints") == []
