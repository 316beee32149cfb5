"""The report in a real browser: what is under the pointer is the trace's number.

Expected numbers come from numpy on the trace's arrays; what the browser shows comes from its DOM.
"""

from __future__ import annotations

import re

import browsing
import numpy as np
import pytest
import report_traces
from tiny_traces import ATTRIBUTES, site

import probekit
from probekit.report import attention

MISSING = browsing.what_is_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

TEXTS = ["The capital of Japan is", "Cats", "What is the capital of France?"]
HOSTILE = [
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "\x1b[31m\u202eevil\u2066",
    "<!-- {{ 7*7 }} &amp; 'quotes\" \\u003c",
    "\ufffd",
    "",
    "שלום",
    "a" * 400,
    "\n",
]
MAP = "#head-map .plot"
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "deviceScaleFactor": 2,
    "isMobile": True,
    "hasTouch": True,
}


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return probekit.run(
        {
            "model": {"name": "sample:tiny-gpt2"},
            "inputs": {"texts": TEXTS},
            "probes": [
                {"sites": ["pattern", "resid_post", "mlp_post"]},
                {"modules": "lm_head", "record": ["top_k", "token_logprob", "entropy"], "k": 4},
            ],
            "generate": {"max_new_tokens": 5},
            "execution_order": True,
            "store": {"path": str(tmp_path_factory.mktemp("trace") / "run")},
        }
    )


@pytest.fixture(scope="module")
def report(trace, tmp_path_factory):
    return trace.report(tmp_path_factory.mktemp("report") / "r.html").path


@pytest.fixture(scope="module")
def browser():
    with browsing.running() as running:
        yield running


@pytest.fixture
def page(browser, report):
    with opened(browser, report) as page:
        page.wait("document.querySelector('#strip [aria-selected]')")
        page.wait("document.querySelector('#timeline [role=treeitem]')")
        yield page
        assert page.ask("complaints") == []
        assert all(url.startswith("file:") for url in page.ask("requests"))


def opened(browser, report, **options):
    return browser.open(report, **{**DESKTOP, **options})


def show(page, example=0, layer=0, head=0):
    """Choose an example and a head, and wait until its map is there."""
    for selector, index in (("#example", example), ("#map", layer), ("#head", head)):
        page.evaluate("performance.clearMarks('head drawn')")
        if page.evaluate(f"document.querySelector('{selector}').selectedIndex") != index:
            page.select(selector, index)
            page.wait("performance.getEntriesByName('head drawn').length")
    page.wait("document.querySelector('#strip [aria-selected]')")
    wanted = f"[{example}, {layer}, {head}]"
    chosen = "['example', 'map', 'head'].map((id) => document.getElementById(id).selectedIndex)"
    page.wait(f"String({chosen}) === String({wanted})")


def pattern(trace, example, layer):
    return np.asarray(trace.select("pattern", layer=layer).example(example))


def number_in(text):
    """Read a readout: `0.3640 · ...`, `≈ 0.0031 · ...`, `L2 norm 13.76 · ...`."""
    return float(re.search(r"-?\d+\.\d+(?:e[+-]\d+)?|\d+", text.removeprefix("L2 "))[0])


def percent(text):
    return float(re.search(r"(\d+\.?\d*) %", text)[1]) / 100


# --- the page as a whole


def test_the_page_asks_for_nothing_but_itself(page, report):
    assert page.ask("requests") == [report.as_uri()]


def test_a_script_of_a_stranger_would_not_run(browser, report):
    with opened(browser, report) as page:
        page.evaluate(
            "(() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
            " document.body.append(s); })()"
        )
        assert page.evaluate("window.ran") is None
        assert any("Content Security Policy" in text for text in page.ask("complaints"))


def test_a_page_that_was_cut_short_says_so(browser, report, tmp_path):
    whole = report.read_bytes()
    cut = tmp_path / "cut.html"
    cut.write_bytes(whole[: whole.index(b'id="block-0-head-0-0"')])
    with opened(browser, cut) as page:
        page.wait("!document.getElementById('trouble').hidden")
        assert "the file was cut short" in page.text("#trouble")


# --- attention


def test_the_number_under_the_pointer_is_the_traces(page, trace):
    for example, layer, head, query, key in ((0, 0, 1, 6, 2), (0, 1, 3, 9, 9), (2, 1, 0, 8, 0)):
        show(page, example, layer, head)
        tokens = trace.examples[example].tokens
        n = len(tokens)
        page.hover(MAP, (key + 0.5) / n, (query + 0.5) / n)
        said = page.text("#readout")
        assert said.endswith(f" · “{tokens[query]}” ({query}) → “{tokens[key]}” ({key})")
        weight = pattern(trace, example, layer)[head, query, key]
        assert number_in(said) == pytest.approx(weight, abs=5e-5 + 5e-5)
    page.hover(MAP, 0.9, 0.1)
    assert "not seen, it comes later" in page.text("#readout")
    page.hover("h1")
    assert page.text("#readout") == "Point at a cell, or move with the arrow keys."


def test_colours_follow_the_weights(page, trace):
    show(page, 0, 1, 2)
    weights = pattern(trace, 0, 1)[2]
    n = len(weights)
    colour = np.array(
        page.evaluate(
            "(() => { const c = document.querySelector('#head-map canvas');"
            " const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
            f" const at = (cell, size) => Math.floor((cell + .4) * size / {n});"
            f" return Array.from({{ length: {n} }}, (_, row) => Array.from({{ length: {n} }},"
            " (_, column) => { const pixel = at(row, c.height) * c.width + at(column, c.width);"
            " return [...data.slice(4 * pixel, 4 * pixel + 4)]; })); })()"
        )
    )
    seen = np.tril(np.ones((n, n), dtype=bool))
    assert (colour[..., 3] == np.where(seen, 255, 0)).all()  # what comes later is left blank
    darkness = 765 - colour[..., :3].sum(-1)[seen]
    order = np.argsort(weights[seen])
    assert (np.diff(darkness[order]) >= -3).all()  # rounding of three channels
    assert np.ptp(darkness) > 300


def test_a_token_says_what_it_attends_to_and_what_attends_to_it(page, trace):
    show(page, 0, 1, 1)
    tokens, weights = trace.examples[0].tokens, pattern(trace, 0, 1)[1]
    page.hover("#strip [data-position='4']")
    row, column = weights[4, :5], weights[4:, 4]
    assert page.text("#to-title") == f"“{tokens[4]}” (4) attends to"
    for selector, values, first in (("#to", row, 0), ("#from", column, 4)):
        best = np.argsort(-values)[:6]
        found = [float(t) for t in page.texts(f"{selector} .number")]
        np.testing.assert_allclose(found, values[best], rtol=0, atol=1.1e-4)
        names = page.texts(f"{selector} .label")
        assert names == [f"{tokens[first + i]} {first + i}".replace("\n", "⏎") for i in best]


def test_hover_shows_and_a_click_keeps(page):
    show(page)
    page.click("#strip [data-position='2']")
    page.hover("#strip [data-position='5']")
    assert "(5) attends to" in page.text("#to-title")
    page.hover("h1")
    assert "(2) attends to" in page.text("#to-title")
    assert page.attribute("#strip [data-position='2']", "aria-selected") == "true"
    page.click("#strip [data-position='2']")
    page.press("Escape")
    assert "(2) attends to" not in page.text("#to-title")


def test_the_direction_can_be_turned(page, trace):
    show(page, 0, 1, 1)
    page.hover("#strip [data-position='3']")

    def painted():
        return page.evaluate(
            "[...document.querySelectorAll('#strip [role=option]')]"
            ".map((e) => e.style.backgroundColor !== '')"
        )

    n = trace.examples[0].n_tokens
    assert painted() == [p <= 3 for p in range(n)]
    page.click("input[value=from]")
    page.hover("#strip [data-position='3']")
    assert painted() == [p >= 3 for p in range(n)]


def test_every_head_has_a_picture_that_opens_it(page, trace):
    show(page)
    grid = "document.querySelector('.heads')"
    wide, high = page.evaluate(f"[{grid}.offsetWidth, {grid}.offsetHeight]")
    side = 59  # 56 and a gap: two layers of four heads have room for the largest pictures
    assert page.texts(".headgrid .axis") == ["→ head", "↓ layer"]
    assert page.texts(".headgrid .labels.rows span") == ["0", "1"]
    assert page.texts(".headgrid .labels.columns span") == ["0", "1", "2", "3"]
    page.hover(".heads", 2.5 * side / wide, 1.5 * side / high)
    assert page.text("#heads-readout") == "layer 1, head 2"
    page.click(".heads", 2.5 * side / wide, 1.5 * side / high)
    page.wait("document.querySelector('#map-title').textContent === 'layer 1, head 2'")
    n = trace.examples[0].n_tokens
    page.hover(MAP, 0.5 / n, (n - 0.5) / n)
    weight = pattern(trace, 0, 1)[2, n - 1, 0]
    assert number_in(page.text("#readout")) == pytest.approx(weight, abs=1.1e-4)


def test_long_examples_show_what_they_say_they_show(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "_FINE_WEIGHTS", 0)
    n = 120
    rows = report_traces.attention(np.random.default_rng(0), (n,), 1)
    spec = report_traces.attention_site(0, 1, n)
    trace = report_traces.write(tmp_path / "t", [(spec, rows)], (n,))
    weights = rows[:, 0]
    with opened(browser, trace.report(tmp_path / "r.html").path) as page:
        show(page)
        assert "within 0.00005 of the trace's from 0.02 up" in page.text("#precision")
        stated = float(re.search(r"within ([\d.]+) below", page.text("#precision"))[1])
        for low, high in ((0, 0.0005), (0.004, 0.006), (0.015, 0.019), (0.02, 0.1), (0.4, 1)):
            query, key = np.argwhere(np.tril((weights > low) & (weights < high)))[-1]
            page.hover(MAP, (key + 0.5) / n, (query + 0.5) / n)
            said = page.text("#readout")
            assert f"({query}) → " in said
            assert said.startswith(("≈", "<")) == (high < 0.02)
            error = (stated if high < 0.02 else 5e-5) + 5e-5
            assert number_in(said) == pytest.approx(weights[query, key], abs=error)


def test_some_queries_of_some_heads(browser, tmp_path):
    draw = np.random.default_rng(0)
    rows = report_traces.attention(draw, (6, 9), 2, causal=False)
    spec = report_traces.attention_site(3, 2, 9, rows="last", details={"heads": [5, 2]})
    trace = report_traces.write(tmp_path / "t", [(spec, rows[[5, 14]])], (6, 9))
    with opened(browser, trace.report(tmp_path / "r.html").path) as page:
        show(page, 1, 0, 1)
        assert page.text("#map-title") == "layer 3, head 2"
        page.hover(MAP, 3.5 / 9, 8.5 / 9)
        assert number_in(page.text("#readout")) == pytest.approx(rows[14, 1, 3], abs=1.1e-4)
        page.hover(MAP, 3.5 / 9, 2.5 / 9)
        assert page.text("#readout").startswith("query not recorded · ")


# --- what else is on the page


def test_candidates_stand_under_every_token(page, trace):
    page.select("#candidates", 3)  # all four of them
    example = trace.examples[0]
    cells = "[...document.querySelectorAll('#token-list > li')]"
    assert page.evaluate(f"{cells}.map((c) => c.querySelector('.chip').textContent)") == [
        "⏎" if t == "\n" else t for t in example.tokens
    ]
    found = page.evaluate(
        f"{cells}.map((c) => [...c.querySelectorAll('ol li')].map((l) =>"
        " [l.querySelector('bdi').textContent, l.querySelector('span').textContent,"
        " l.className]))"
    )
    ids = trace["lm_head/top_k.id"].example(0)
    chances = np.exp(trace["lm_head/top_k.logprob"].example(0))
    for position, lines in enumerate(found):
        for (text, number, kind), token, chance in zip(
            lines, ids[position], chances[position], strict=True
        ):
            assert text == trace.token_text(int(token)).replace("\n", "⏎")
            assert number == "< 0.01 %" or percent(number) == pytest.approx(chance, abs=6e-4)
            came = position + 1 < len(ids) and token == example.token_ids[position + 1]
            assert (kind == "came") == came


def test_norms_under_the_pointer_are_numpys(page, trace):
    show(page, 2)
    n = trace.examples[2].n_tokens
    for layer, token in ((0, 0), (1, n - 1), (1, 4)):
        page.hover("#stream-map .plot", (token + 0.5) / n, (layer + 0.5) / 2)
        rows = trace.select("resid_post", layer=layer).example(2)
        said = page.text("#stream-readout")
        assert f" · layer {layer}, " in said
        assert number_in(said) == pytest.approx(np.linalg.norm(rows[token]), rel=1e-4)


def test_the_generation_goes_step_by_step(page, trace):
    show(page, 0, 1, 0)
    example = trace.examples[0]
    first = example.n_tokens - example.n_generated
    chances = np.exp(trace["lm_head/token_logprob"].example(0))
    entropies = trace["lm_head/entropy"].example(0)
    weights = pattern(trace, 0, 1)[0]
    rows = page.evaluate(
        "[...document.querySelector('#steps').tBodies[0].rows]"
        ".map((r) => [...r.cells].map((c) => c.textContent))"
    )
    assert len(rows) == example.n_generated == 5
    for step, (number, token, chance, entropy, attended) in enumerate(rows, 1):
        before = first + step - 2  # the row that chose it
        assert (number, token) == (str(step), example.tokens[before + 1].replace("\n", "⏎"))
        assert percent(chance) == pytest.approx(chances[before], abs=6e-4)
        assert float(entropy) == pytest.approx(entropies[before], rel=6e-3)
        best = int(weights[before].argmax())
        assert f" {best} · " in attended
        assert float(attended.split(" · ")[-1]) == pytest.approx(weights[before, best], abs=1.1e-4)
    assert page.text("#generated") == "".join(example.tokens[: first + 1])
    page.evaluate("document.getElementById('step').focus()")
    page.press("ArrowRight", "ArrowRight")
    assert page.text("#step-about") == "3 of 5"
    assert page.text("#generated") == "".join(example.tokens[: first + 3])
    page.select("#step-row", 1)
    best = float(page.texts("#step-attention .number")[0])
    assert best == pytest.approx(weights[first + 2].max(), abs=1.1e-4)


def test_neurons_show_their_top_tokens(page, trace):
    acts = np.asarray(trace.select("mlp_post", layer=1))
    later = np.asarray(trace.tokens.position[:]) > 0
    liveliest = np.argsort(-np.abs(acts[later]).max(0))
    page.select("#neuron-site", 1)
    page.wait(f"document.querySelector('#neuron').options[0].text.startsWith('{liveliest[0]} ')")
    page.select("#neuron", 2)
    column = acts[:, liveliest[2]]
    rows = np.argsort(-np.abs(column), kind="stable")[:8]
    found = [float(t) for t in page.texts("#contexts > li > .number")]
    np.testing.assert_allclose(found, column[rows], rtol=1e-4)
    assert page.texts("#contexts .peak") == [
        trace.tokens[int(row)].text.replace("\n", "⏎") for row in rows
    ]
    page.click("#contexts > li:first-child button")
    token = trace.tokens[int(rows[0])]
    page.wait("document.querySelector('.chip.chosen')")
    assert page.evaluate("document.getElementById('example').selectedIndex") == token.example
    chosen = "[...document.querySelectorAll('.chip')].findIndex((c) => c.ariaPressed === 'true')"
    assert page.evaluate(chosen) == token.position


def test_the_execution_order_unfolds_by_module(page, trace):
    def items():
        return [t.split(",")[0] for t in page.evaluate(
            "[...document.querySelectorAll('#timeline [role=treeitem]')].map((e) => e.ariaLabel)"
        )]  # fmt: skip

    assert items() == trace.execution_order
    page.click("#fold")
    assert items() == ["transformer", "lm_head"]
    page.evaluate("document.querySelector('#timeline [role=treeitem]').focus()")
    page.press("ArrowRight")
    inside = [p for p in trace.execution_order if re.fullmatch(r"transformer\.(\w+|h\.\d)", p)]
    assert items() == ["transformer", *inside, "lm_head"]
    page.press("ArrowRight", "ArrowDown", "ArrowDown", "ArrowDown", "Enter")
    assert page.evaluate("document.activeElement.ariaLabel").startswith("transformer.h.0, ")
    assert page.evaluate("document.activeElement.ariaExpanded") == "true"
    page.press("ArrowLeft", "ArrowLeft")
    assert page.evaluate("document.activeElement.ariaLabel").startswith("transformer, ")
    bars = page.evaluate(
        "[...document.querySelectorAll('.track i')].map((e) => parseFloat(e.style.left))"
    )
    assert bars == sorted(bars)
    assert f"{len(trace.execution.forwards)} forward passes" in page.text("#passes-about")


# --- keys, fingers, paper, darkness


def test_the_heat_map_is_read_with_arrow_keys(page, trace):
    show(page, 0, 1, 0)
    weights = pattern(trace, 0, 1)[0]
    page.evaluate(f"document.querySelector('{MAP}').focus()")
    page.press("Home", "PageDown", "ArrowUp", "ArrowRight", "ArrowRight")
    query = len(weights) - 2
    said = page.text("#readout")
    assert f"({query}) → " in said
    assert number_in(said) == pytest.approx(weights[query, 2], abs=1.1e-4)
    assert page.attribute("#readout", "aria-live") == "polite"
    page.press("Enter", "Escape")
    assert f"({query}) attends to" in page.text("#to-title")


def test_heads_are_chosen_with_arrow_keys(page):
    show(page)
    page.evaluate("document.querySelector('.heads').focus()")
    page.press("ArrowRight", "ArrowDown", "ArrowDown")
    page.wait("document.querySelector('#map-title').textContent === 'layer 1, head 1'")
    assert page.evaluate("document.getElementById('head').selectedIndex") == 1


def test_everything_is_reached_with_the_tab_key_and_has_a_name(page):
    show(page)
    reached = []
    for _ in range(80):
        page.press("Tab")
        reached.append(page.focused())
        assert page.evaluate("document.activeElement.matches(':focus-visible')")
        if page.focused() == "fold":
            break
    wanted = ["skip", "theme", "example", "candidates", "chip", "map", "head", "scale", "plot",
              "heads", "stream", "step", "neuron-site", "neuron", "order", "fold"]  # fmt: skip
    assert [w for w in wanted if w not in reached] == []
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, select, input, [tabindex=\"0\"]')].filter((e) =>"
        " !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)"
    )
    assert nameless == []


def test_a_phone_shows_it_all_in_its_width_and_a_tap_says_the_number(browser, report, trace):
    with browser.open(report, **PHONE) as page:
        page.wait("document.querySelector('#strip [aria-selected]')")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        weights = pattern(trace, 0, 0)[0]
        n = len(weights)
        page.tap(MAP, 3.5 / n, 5.5 / n)
        assert number_in(page.text("#readout")) == pytest.approx(weights[5, 3], abs=1.1e-4)
        assert "(5) attends to" in page.text("#to-title")
        page.tap("#strip [data-position='2']")
        assert "(2) attends to" in page.text("#to-title")
        assert page.ask("complaints") == []


def luminance(colour):
    return sum(int(c) for c in re.findall(r"\d+", colour)[:3])


def test_dark_follows_the_system_and_the_button_overrules_it(browser, report):
    with opened(browser, report, colorScheme="dark") as page:
        page.wait("document.querySelector('#strip [aria-selected]')")
        assert luminance(page.style("body", "backgroundColor")) < 150
        assert luminance(page.style("body", "color")) > 600
        page.click("#theme")
        assert page.text("#theme") == "Theme: light"
        assert luminance(page.style("body", "backgroundColor")) > 700
        page.click("#theme")
        page.click("#theme")
        assert page.text("#theme") == "Theme: auto"


def test_text_on_colours_can_be_read_in_both_themes(browser, report):
    contrast = """(() => {
      const part = (c) => (c /= 255, c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
      const light = (s) => { const [r, g, b] = s.match(/\\d+/g).map(Number);
        return .2126 * part(r) + .7152 * part(g) + .0722 * part(b); };
      return [...document.querySelectorAll('#token-list ol li, #strip [role=option], .context bdi')]
        .filter((e) => e.style.color).map((e) => {
          const a = light(e.style.color), b = light(e.style.backgroundColor);
          return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); });
    })()"""  # WCAG 2.2, 1.4.3
    for scheme in ("light", "dark"):
        with opened(browser, report, colorScheme=scheme) as page:
            page.wait("document.querySelector('#strip [aria-selected]')")
            ratios = page.evaluate(contrast)
            assert len(ratios) > 50
            assert min(ratios) >= 4.5


def test_paper_is_white_and_shows_what_was_folded(browser, report, tmp_path):
    with opened(browser, report, colorScheme="dark") as page:
        page.wait("document.querySelector('#strip [aria-selected]')")
        page.ask("print", media="print")
        assert luminance(page.style("body", "backgroundColor")) == 765
        assert page.style("#theme", "display") == "none"
        assert page.style("#token-list", "overflowY") == "visible"
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("[...document.querySelectorAll('details')].every((d) => d.open)")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert not page.evaluate("[...document.querySelectorAll('details')].some((d) => d.open)")
        page.ask("pdf", path=str(tmp_path / "r.pdf"))
        assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")


# --- strangers' texts


def test_hostile_text_is_text(browser, tmp_path):
    n = len(HOSTILE)
    draw = np.random.default_rng(0)
    trace = report_traces.write(
        tmp_path / "t",
        [
            (report_traces.attention_site(0, 1, n), report_traces.attention(draw, (n, 1), 1)),
            (
                site("h.0.mlp", row_shape=(3,), axes=("token", "d_mlp"), layer=0),
                draw.normal(0, 1, (n + 1, 3)),
            ),
        ],
        (n, 1),
        texts=["".join(HOSTILE), "\u202e" * 20],
        vocabulary=HOSTILE,
        attributes={**ATTRIBUTES, "model_name": HOSTILE[0], "config": "\n".join(HOSTILE)},
    )
    with opened(browser, trace.report(tmp_path / "r.html").path) as page:
        show(page)
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.images.length") == 0
        assert page.text("h1") == HOSTILE[0]
        shown = page.texts("#strip [role=option]")
        assert shown[:2] == HOSTILE[:2]
        assert shown[2] == "␛[31m‹U+202E›evil‹U+2066›"
        assert shown[5] == "∅"
        assert shown[6:] == [*HOSTILE[6:8], "⏎"]
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        show(page, 1)
        assert page.texts("#strip [role=option]") == [HOSTILE[0]]
        page.hover(MAP)
        assert number_in(page.text("#readout")) == 1
        assert page.ask("complaints") == []
