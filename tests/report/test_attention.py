"""Attention as the page holds it, unpacked without probekit and against the arrays it came from."""

import numpy as np
import pytest
import report_traces
from report_pages import ReadPage

from probekit.report import attention

LENGTHS = (5, 40)


@pytest.fixture
def rows():
    return report_traces.attention(np.random.default_rng(0), LENGTHS, 3)


def written(tmp_path, *rows, lengths=LENGTHS):
    trace = report_traces.write(tmp_path / "t", rows, lengths)
    return ReadPage(trace.report(tmp_path / "r.html").path)


def causal(square):
    return np.where(np.tril(np.ones_like(square)), square, np.nan)


def test_every_weight_is_the_traces_within_half_a_ten_thousandth(tmp_path, rows):
    specs = [report_traces.attention_site(n, 3, 40) for n in range(2)]
    page = written(tmp_path, (specs[0], rows), (specs[1], rows[:, ::-1]))
    for head in range(3):
        np.testing.assert_allclose(
            page.head(0, 0, head), causal(rows[:5, head, :5]), rtol=0, atol=6e-5
        )
        np.testing.assert_allclose(
            page.head(1, 1, head), causal(rows[5:, 2 - head]), rtol=0, atol=6e-5
        )


def test_long_examples_are_as_exact_as_the_page_says(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(attention, "_FINE_WEIGHTS", 100)
    page = written(tmp_path, (report_traces.attention_site(0, 3, 40), rows))
    assert page.json("0-attention")["precision"] == "within 0.00005 of the trace's"
    about = page.json("1-attention")
    assert "within 0.00005 of the trace's from 0.02 up" in about["precision"]
    off = np.abs(page.head(1, 0, 1) - rows[5:, 1])
    small = rows[5:, 1] < 0.02
    assert np.nanmax(off[~small]) <= 5e-5 + 1e-8
    assert 5e-5 < np.nanmax(off[small]) <= about["error"] + 1e-8


def test_some_queries_and_some_heads_keep_their_numbers(tmp_path, rows):
    spec = report_traces.attention_site(0, 2, 40, rows="last", details={"heads": [7, 3]})
    page = written(tmp_path, (spec, rows[[4, 44]][:, :2]))
    (about,) = page.json("1-attention")["maps"]
    assert about["heads"] == [7, 3]
    assert about["queries"] == [39]
    found = page.head(1, 0, 1)
    assert np.isnan(found[:39]).all()
    np.testing.assert_allclose(found[39], rows[44, 1], rtol=0, atol=6e-5)


def test_an_example_without_rows_says_so(tmp_path, rows):
    spec = report_traces.attention_site(0, 3, 40, rows="3:")
    page = written(tmp_path, (spec, rows[[8, *range(9, 41)]]), lengths=(2, 36))
    (about,) = page.json("0-attention")["maps"]
    assert about["heads"] == []
    assert about["why"] == "holds no rows of this example"
    assert page.json("1-attention")["maps"][0]["queries"] == list(range(3, 36))


def test_models_that_look_ahead_keep_all_keys(tmp_path):
    rows = report_traces.attention(np.random.default_rng(0), LENGTHS, 3, causal=False)
    page = written(tmp_path, (report_traces.attention_site(0, 3, 40), rows))
    assert page.json("1-attention")["maps"][0]["causal"] is False
    np.testing.assert_allclose(page.head(1, 0, 2), rows[5:, 2], rtol=0, atol=6e-5)


def test_what_is_not_a_weight_is_left_out_and_what_is_not_a_number_is_told(tmp_path, rows):
    specs = [report_traces.attention_site(n, 3, 40) for n in range(2)]
    odd = rows.copy()
    odd[2, 1, 0] = np.nan
    page = written(tmp_path, (specs[0], rows * 3), (specs[1], odd))
    first, second = page.json("0-attention")["maps"]
    assert first["heads"] == []
    assert "outside 0 to 1" in first["why"]
    assert second["heads"] == [0, 1, 2]
    found = page.head(0, 1, 1)
    assert np.isnan(found[2, 0])
    assert np.isnan(found).sum() == 10 + 1


def test_thumbnails_lie_one_after_another_map_by_map(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(attention, "_DRAWN_WEIGHTS", 0)
    specs = [report_traces.attention_site(n, 3, 40) for n in range(2)]
    page = written(tmp_path, (specs[0], rows), (specs[1], rows[:, ::-1]))
    small = np.frombuffer(page.bytes("0-thumbnails"), np.uint8).reshape(2, 3, 5, 5)
    np.testing.assert_array_equal(small[0], small[1, ::-1])
    np.testing.assert_array_equal(
        small[0, 1], np.rint(255 * np.sqrt(rows[:5, 1, :5])).astype(np.uint8)
    )
    assert len(page.bytes("1-thumbnails")) == 2 * 3 * 32 * 32


def test_few_heads_are_drawn_small_by_the_browser(tmp_path, rows):
    page = written(tmp_path, (report_traces.attention_site(0, 3, 40), rows))
    assert not [name for name in page.blocks if name.endswith("-thumbnails")]
    assert page.json("1-attention")["thumbnails"] is False
