"""The experts of a report: what is in it, and in a browser, against numpy on hand-made ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browsing
import numpy as np
import pytest
import report_pages
import report_traces
from tiny_traces import site

from probekit.trace import Trace

MISSING = browsing.what_is_missing()
in_a_browser = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

LENGTHS, N_LAYERS, N_EXPERTS, K = (7, 4), 3, 6, 3
DESKTOP = {"viewport": {"width": 1100, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "colorScheme": "dark"}


def drawn(seed: int) -> tuple[Any, Any]:
    """Draw ids and weights `[token, k]`, in no order."""
    draw = np.random.default_rng(seed)
    ids = draw.random((sum(LENGTHS), N_EXPERTS)).argsort(-1)[:, :K].astype("int32")
    return ids, draw.random(ids.shape).astype("float32")


def written(folder: Path, *, weights: bool = True, n_experts: Any = N_EXPERTS) -> Trace:
    rows = []
    for layer in range(N_LAYERS):
        ids, shares = drawn(layer)
        about = {"row_shape": (K,), "axes": ("token", "k"), "layer": layer}
        kind, details = "expert_ids", {"n_experts": n_experts}
        spec = site(f"h.{layer}.mlp", kind, **about, dtype="int32", portable=kind, details=details)
        rows.append((spec, ids))
        if weights:
            kind = "expert_weights"
            rows.append((site(f"h.{layer}.mlp", kind, **about, portable=kind), shares))
    return report_traces.write(folder, rows, LENGTHS)


def test_a_report_holds_loads_and_the_experts_of_every_token(tmp_path: Path) -> None:
    trace = written(tmp_path / "t")
    page = report_pages.ReadPage(trace.report(tmp_path / "r.html").path)
    assert page.start["experts"]
    assert [e["experts"] for e in page.start["examples"]] == [True, True]
    for layer, load in enumerate(page.json("experts")):
        ids, _ = drawn(layer)
        counts = [int((ids == n).sum()) for n in range(N_EXPERTS)]
        assert (load["label"], load["n_tokens"]) == (f"layer {layer}", sum(LENGTHS))
        assert load["counts"] == counts
        shares = np.array(counts) / ids.size
        evenness = -sum(s * np.log(s) for s in shares if s) / np.log(N_EXPERTS)
        assert load["evenness"] == pytest.approx(evenness, abs=1e-4)
    for layer, found in enumerate(page.json("1-experts")["layers"]):
        ids, weights = (values[LENGTHS[0] :] for values in drawn(layer))
        for token in range(LENGTHS[1]):
            order = sorted(range(K), key=lambda n: -weights[token, n])
            assert found["ids"][token] == ids[token, order].tolist()
            np.testing.assert_allclose(found["weights"][token], weights[token, order], rtol=5e-3)


def test_without_weights_experts_keep_the_models_order(tmp_path: Path) -> None:
    trace = written(tmp_path / "t", weights=False)
    page = report_pages.ReadPage(trace.report(tmp_path / "r.html").path)
    (first, *_) = page.json("0-experts")["layers"]
    assert first == {"ids": drawn(0)[0][: LENGTHS[0]].tolist(), "weights": None}


def test_a_trace_without_experts_has_no_such_section(tmp_path: Path) -> None:
    rows = [(site("h.0", axes=("token", "d_model"), layer=0), np.zeros((sum(LENGTHS), 3)))]
    trace = report_traces.write(tmp_path / "t", rows, LENGTHS)
    page = report_pages.ReadPage(trace.report(tmp_path / "r.html").path)
    assert not page.start["experts"]
    assert not any(attributes.get("id") == "experts" for _, attributes in page.tags)


def test_experts_that_there_are_not_leave_the_rest_of_the_report(tmp_path: Path) -> None:
    report = written(tmp_path / "t", n_experts=2).report(tmp_path / "r.html")
    assert "and there are 2 (0..1)" in report.left_out[0]
    assert not report_pages.ReadPage(report.path).start["experts"]


# --- in a browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    return written(folder / "t").report(folder / "r.html").path


@pytest.fixture(scope="module")
def browser() -> Iterator[browsing.Browser]:
    with browsing.running() as running:
        yield running


@pytest.fixture
def page(browser: browsing.Browser, report: Path) -> Iterator[browsing.Page]:
    with browser.open(report, **DESKTOP) as page:
        page.wait("document.querySelectorAll('#expert-tokens li').length")
        yield page
        assert page.ask("complaints") == []


@in_a_browser
def test_below_a_token_stand_its_experts_the_heaviest_first(page: browsing.Page) -> None:
    for layer in (0, 2):
        page.select("#expert-layer", layer)
        ids, weights = drawn(layer)
        wanted = []
        for token in range(LENGTHS[0]):
            order = np.argsort(-weights[token])
            wanted.append(" · ".join(str(n) for n in ids[token, order[:2]]) + " +1")
        assert page.texts("#expert-tokens small") == wanted
        page.hover("#expert-tokens li:nth-child(2) .chip")
        order = np.argsort(-weights[1])
        (best, weight) = ids[1, order[0]], weights[1, order[0]]
        assert f"(1): expert {best} (weight {weight:.3g}" in page.text("#expert-readout")


@in_a_browser
def test_tokens_of_one_expert_are_coloured_and_no_others(page: browsing.Page) -> None:
    ids, _ = drawn(0)
    page.select("#expert-number", 1 + 5)
    grounds = [
        page.evaluate(
            f"document.querySelectorAll('#expert-tokens .chip')[{n}].style.backgroundColor"
        )
        for n in range(LENGTHS[0])
    ]
    chosen = [5 in ids[n] for n in range(LENGTHS[0])]
    assert [ground != "" for ground in grounds] == chosen
    assert set(chosen) == {True, False}
    assert "weight of expert 5" in page.text("#expert-legend")


@in_a_browser
def test_a_cell_of_the_map_says_its_load_and_opens_its_tokens(page: browsing.Page) -> None:
    layer, expert = 1, 5
    place = {"x": (expert + 0.5) / N_EXPERTS, "y": (layer + 0.5) / N_LAYERS}
    page.hover("#load-map .plot", **place)
    n = int((drawn(layer)[0] == expert).sum())
    share = f"{100 * n / sum(LENGTHS):.1f} %"
    even = f"{n * N_EXPERTS / (sum(LENGTHS) * K):.3g}"
    said = f"layer {layer}, expert {expert}: {n} tokens of 11 ({share}), {even} × an even share"
    assert page.text("#load-readout") == said
    page.click("#load-map .plot", **place)
    chosen = "[document.querySelector('#expert-layer').selectedIndex,"
    chosen += "document.querySelector('#expert-number').selectedIndex]"
    assert page.evaluate(chosen) == [layer, expert + 1]


@in_a_browser
def test_another_example_shows_its_own_experts(page: browsing.Page) -> None:
    page.select("#example", 1)
    page.wait(f"document.querySelectorAll('#expert-tokens li').length === {LENGTHS[1]}")
    ids, weights = (values[LENGTHS[0] :] for values in drawn(0))
    first = [ids[token, np.argmax(weights[token])] for token in range(LENGTHS[1])]
    assert [int(text.split()[0]) for text in page.texts("#expert-tokens small")] == first
    page.click("#expert-tokens li:nth-child(3) .chip")
    assert page.attribute("#token-list li:nth-child(3) .chip", "aria-pressed") == "true"


@in_a_browser
def test_a_dark_phone_shows_all_of_it_in_its_width(browser: browsing.Browser, report: Path) -> None:
    with browser.open(report, **PHONE) as page:
        page.wait("document.querySelectorAll('#expert-tokens li').length")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        ground = page.style("#expert-tokens .chip", "backgroundColor")
        assert ground.startswith("oklch(0.4 ")
        assert page.style("#expert-tokens .chip", "color") == "rgb(255, 255, 255)"
        assert page.ask("complaints") == []
