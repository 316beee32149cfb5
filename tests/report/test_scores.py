"""Head scores on the page, and which head is open at first: heads whose attention is known."""

import numpy as np
import pytest
import report_traces
from report_pages import ReadPage

LENGTHS = (12, 12)


def looks(n_heads, **heads):
    """Attention [token, head, key] of heads that each look at one key; others at all alike."""
    rows = np.zeros((24, n_heads, 12), dtype=np.float32)
    for row in range(24):
        at = row % 12
        rows[row, :, : at + 1] = 1 / (at + 1)
        for name, key_of in heads.items():
            rows[row, int(name[1:])] = np.eye(12)[key_of(at)]
    return rows


def scored(tmp_path, *rows, lengths=LENGTHS, **given):
    pairs = [
        (report_traces.attention_site(n, one.shape[1], one.shape[2], **given), one)
        for n, one in enumerate(rows)
    ]
    trace = report_traces.write(tmp_path / "t", pairs, lengths)
    page = ReadPage(trace.report(tmp_path / "r.html").path)
    return page.json("scores"), page.start["opens"]


def test_the_page_opens_on_the_head_with_the_highest_score(tmp_path):
    found, opens = scored(tmp_path, looks(3), looks(3, h2=lambda at: max(0, at - 1)))
    previous = next(kind for kind in found["kinds"] if kind["name"] == "previous token")
    even = np.mean([1 / (at + 1) for at in range(1, 12)])
    assert previous["uniform"] == pytest.approx(even, rel=1e-5)
    np.testing.assert_allclose(previous["scores"], [[even] * 3, [even, even, 1]], rtol=1e-5)
    assert previous["n_queries"] == 22
    assert (opens["map"], opens["column"]) == (1, 2)
    assert opens["why"] == f"previous token score 1.00, {even:.2f} if even"
    assert found["labels"] == ["layer 0", "layer 1"]


def test_a_sink_is_not_telling_and_the_sharpest_head_beyond_it_is(tmp_path):
    rows = looks(3, h0=lambda at: 0, h2=lambda at: at)  # no token of these texts comes twice
    _, opens = scored(tmp_path, rows)
    assert (opens["map"], opens["column"]) == (0, 2)
    assert "to one token other than the first" in opens["why"]


def test_few_tokens_score_nothing_telling(tmp_path):
    rows = np.zeros((2, 2, 2), dtype=np.float32)
    rows[0, :, 0] = 1
    rows[1] = [[1, 0], [0.3, 0.7]]
    _, opens = scored(tmp_path, rows, lengths=(2,))
    assert (opens["map"], opens["column"]) == (0, 1)


def test_patterns_that_cannot_be_compared_are_told_and_the_page_opens_all_the_same(tmp_path):
    specs = [
        (report_traces.attention_site(0, 3, 12), looks(3)),
        (report_traces.attention_site(1, 3, 12, rows="last"), looks(3)[[11, 23]]),
    ]
    trace = report_traces.write(tmp_path / "t", specs, LENGTHS)
    written = trace.report(tmp_path / "r.html")
    page = ReadPage(written.path)
    assert page.json("scores")["kinds"] == []
    assert any("at different positions" in what for what in written.left_out)
    assert page.start["opens"]["map"] in (0, 1)
