"""The overview, head scores, the lens and columns of examples in a real browser.

Expected numbers come from numpy on the trace's arrays; what the browser shows comes from its DOM.
"""

from __future__ import annotations

import json
import re

import browsing
import numpy as np
import pytest

import probekit

MISSING = browsing.what_is_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

HOSTILE = "<img src=x onerror=window.hacked=1>"
TEXTS = [
    "The capital of Japan is Tokyo. The capital of Japan is",
    "Cats are quiet animals.",
    f"{HOSTILE}</script><script>window.hacked=1</script>",
    *(f"My favorite color is green, said number {n}." for n in range(17)),
]
DESKTOP = {"viewport": {"width": 1280, "height": 900}}


def run(folder, name, probes):
    rows = [{"text": text, "of": HOSTILE if n == 1 else f"row{n}"} for n, text in enumerate(TEXTS)]
    file = folder / "texts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return probekit.run(
        {
            "model": {"name": "sample:tiny-gpt2"},
            "inputs": {"file": str(file), "columns": ["of"]},
            "probes": probes,
            "store": {"path": str(folder / name)},
        }
    )


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    logits = {"modules": "lm_head", "record": ["top_k", "token_logprob"]}
    probes = [{"sites": ["pattern", "resid_post"]}, logits]
    return run(tmp_path_factory.mktemp("sections"), "t", probes)


@pytest.fixture(scope="module")
def report(trace, tmp_path_factory):
    return trace.report(tmp_path_factory.mktemp("page") / "r.html", examples=3).path


@pytest.fixture(scope="module")
def browser():
    with browsing.running() as running:
        yield running


@pytest.fixture
def page(browser, report):
    with browser.open(report, **DESKTOP) as page:
        page.wait("document.querySelector('#strip [aria-selected]')")
        page.wait("document.querySelector('#overview-list li')")
        page.wait("document.querySelector('#lens-layers li')")
        yield page
        assert page.ask("complaints") == []
        assert page.evaluate("window.hacked") is None


def listed(page):
    return [int(number) for number in page.texts("#overview-list li > button")]


def surprises(trace):
    logprobs = np.asarray(trace["lm_head/token_logprob"], dtype=np.float64)
    owners = np.asarray(trace.tokens.example[:])
    return [-np.nanmean(logprobs[owners == n]) for n in range(len(TEXTS))]


# --- the overview


def test_all_examples_are_listed_the_shown_ones_first(page):
    assert listed(page) == list(range(12))
    page.click("#overview-more")
    assert listed(page) == list(range(20))
    assert page.style("#overview-more", "display") == "none"
    assert page.text("#overview-about") == "20 examples; 3 in full."
    pressable = page.evaluate(
        "[...document.querySelectorAll('#overview-list li > button')].map((b) => !b.disabled)"
    )
    assert pressable == [True] * 3 + [False] * 17
    assert page.texts("#overview-list .excerpt")[2] == TEXTS[2]


def test_the_overview_is_searched_in_texts_and_columns(page):
    for words, found in (("CATS", [1]), ("row7", [7]), ("onerror", [1, 2]), ("13", [13, 16])):
        page.evaluate(
            f"(() => {{ const box = document.getElementById('overview-search'); box.value = "
            f"{json.dumps(words)}; box.dispatchEvent(new Event('input')); }})()"
        )
        assert listed(page) == found, words
    assert page.text("#overview-about") == "2 of 20 examples match; 3 in full."


def test_the_overview_is_sorted_by_surprise_and_norm(page, trace):
    order = page.texts("#overview-order option")
    expected = surprises(trace)
    page.select("#overview-order", order.index("surprise, highest first"))
    assert listed(page) == np.argsort(-np.array(expected), kind="stable")[:12].tolist()
    said = page.evaluate("document.querySelector('#overview-list .about').textContent")
    assert float(re.search(r"surprise ([\d.]+)", said)[1]) == pytest.approx(max(expected), rel=5e-3)
    stream = np.asarray(trace.select("resid_post", layer=-1), dtype=np.float64)
    norms, owners = np.linalg.norm(stream, axis=1), np.asarray(trace.tokens.example[:])
    later = np.asarray(trace.tokens.position[:]) > 0
    means = [norms[(owners == n) & later].mean() for n in range(len(TEXTS))]
    page.select("#overview-order", order.index("norm, smallest first"))
    assert listed(page)[:3] == np.argsort(means, kind="stable")[:3].tolist()


def test_an_example_is_opened_from_the_overview(page):
    page.click("#overview-list li:nth-child(2) button")
    page.wait("document.querySelector('#overview-list .here button').textContent === '1'")
    assert page.evaluate("document.getElementById('example').selectedIndex") == 1
    assert page.text("#text") == TEXTS[1]


# --- heads and the lens


def best_head(trace):
    """The head furthest above even attention, by loops over the shown texts."""
    kinds = {"induction": [], "previous token": [], "duplicate token": []}
    for number in range(3):
        ids = trace.examples[number].token_ids.tolist()
        maps = np.stack([trace.select("pattern", layer=n).example(number) for n in range(2)])
        for at in range(len(ids)):
            earlier = [key for key in range(at) if ids[key] == ids[at]]
            for kind, keys in (
                ("induction", [key + 1 for key in earlier if key + 1 < at]),
                ("previous token", [at - 1] if at else []),
                ("duplicate token", earlier),
            ):
                if keys:
                    kinds[kind].append((maps[:, :, at, keys].sum(-1), len(keys) / (at + 1)))
    above = {}
    for kind, found in kinds.items():
        score, even = (np.mean(part, axis=0) for part in zip(*found, strict=True))
        place = np.unravel_index(np.argmax(score), score.shape)
        above[kind] = ((score[place] - even) / (1 - even), place, score, even)
    kind = max(above, key=lambda name: above[name][0])
    return kind, *above[kind][1:]


def test_the_page_opens_on_the_most_telling_head_and_says_why(page, trace):
    kind, (layer, head), score, even = best_head(trace)
    assert page.text("#map-title") == f"layer {layer}, head {head}"
    why = f"{kind} score {score[layer, head]:.2f}, {even:.2f} if even."
    assert page.text("#opens") == f"Open at first, since it is the most telling: {why}"
    chosen = page.evaluate("document.getElementById('score-kind').selectedOptions[0].textContent")
    assert chosen == kind
    page.hover("#score-map .plot", 2.5 / 4, 1.5 / 2)
    assert (
        page.text("#score-readout") == f"{score[1, 2]:.3f} · {even:.3f} if even · layer 1, head 2"
    )
    page.click("#score-map .plot", 2.5 / 4, 1.5 / 2)
    page.wait("document.querySelector('#map-title').textContent === 'layer 1, head 2'")
    assert page.style("#opens", "display") == ("none" if (layer, head) != (1, 2) else "block")
    assert page.texts("#score-best .number")[0] == f"{score.max():.3f}"


def test_the_lens_ends_where_the_model_does(page, trace):
    n = trace.examples[0].n_tokens
    ids = np.asarray(trace["lm_head/top_k.id"].example(0))
    chances = np.exp(np.asarray(trace["lm_head/top_k.logprob"].example(0), dtype=np.float64))
    for at in (0, 3, n - 1):
        page.hover("#lens-map .plot", (at + 0.5) / n, 1.5 / 2)
        said = page.text("#lens-readout")
        word = trace.token_text(int(ids[at, 0])).replace("\n", "⏎")
        assert said.startswith(f"“{word}” ")
        assert float(said.split("” ")[1].split(" %")[0]) / 100 == pytest.approx(
            chances[at, 0], abs=6e-4
        )
        assert f" · layer 1, after “{trace.examples[0].tokens[at]}” ({at})" in said
    assert len(page.texts("#lens-layers li")) == 2


# --- what else is short, or by example


def test_the_digest_is_short_until_it_is_asked_for(page, trace):
    digest = str(trace.provenance["config_digest"])
    assert page.text(".brief summary") == f"{digest[:10]}…"
    shown = "document.querySelector('.brief > bdi').checkVisibility()"
    assert page.evaluate(shown) is False
    page.click(".brief summary")
    assert page.evaluate(shown) is True
    assert page.text(".brief > bdi") == digest


def test_what_was_not_recorded_is_one_line(page):
    assert page.text("#unrecorded summary") == (
        "Not recorded: a generation, neurons, the execution order"
    )
    assert page.evaluate("document.getElementById('unrecorded').clientHeight") < 120
    assert page.evaluate("['neurons', 'execution'].map((id) => document.getElementById(id))") == [
        None,
        None,
    ]
    page.click("#unrecorded summary")
    assert page.texts("#unrecorded code")[1] == "- sites: mlp_post"


def test_last_positions_show_examples_as_columns(browser, tmp_path):
    trace = run(tmp_path, "last", [{"sites": "resid_post", "positions": "last"}])
    with browser.open(trace.report(tmp_path / "r.html", examples=3).path, **DESKTOP) as page:
        page.wait("document.querySelector('#lens-layers li')")
        page.wait("document.querySelector('#stream-legend .ticks')")
        assert page.texts("#stream-map .axis")[1] == "→ example"
        rows = np.asarray(trace.select("resid_post", layer=1), dtype=np.float64)
        page.hover("#stream-map .plot", 5.5 / len(TEXTS), 1.5 / 2)
        said = page.text("#stream-readout")
        assert "layer 1, example 5, " in said
        norm = float(re.search(r"L2 norm ([\d.]+)", said)[1])
        assert norm == pytest.approx(np.linalg.norm(rows[5]), rel=1e-4)
        page.hover("#lens-map .plot", 1.5 / len(TEXTS), 0.5 / 2)
        assert "layer 0, example 1, " in page.text("#lens-readout")
        page.click("#stream-map .plot", 2.5 / len(TEXTS), 0.5 / 2)
        page.wait("document.getElementById('example').selectedIndex === 2")
        assert page.ask("complaints") == []
