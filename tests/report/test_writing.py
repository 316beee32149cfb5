"""The page as a file: what is in it, what fits, and what a mistake is told."""

import base64
import hashlib
import inspect
import re
import shutil

import numpy as np
import pytest
import report_traces
from report_pages import ReadPage
from tiny_traces import ATTRIBUTES, VOCABULARY, site

from probekit import StoreError
from probekit.report import write_report, writing
from probekit.store.format.execution import Execution, Forward
from probekit.store.format.records import write_record
from probekit.trace import Trace, open_trace

LENGTHS = (4, 1, 30)
HOSTILE = '</script><script>alert(1)</script><!--\x1b\u202e&amp;"\ud7ff'


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    draw = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("trace")
    events = np.array([[0, 1, 0], [1, 1, 1], [1, 0, 1], [0, 0, 0]])
    rows = [
        (report_traces.attention_site(0, 2, 30), report_traces.attention(draw, LENGTHS, 2)),
        (
            site("h.0.mlp", row_shape=(6,), axes=("token", "d_mlp"), layer=0),
            draw.normal(0, 1, (35, 6)),
        ),
    ]
    passes = (
        Forward(order=0, phase="forward", examples=(0, 1, 2), n_tokens=35, seconds=0.25),
        Forward(order=0, phase="forward", examples=(0,), n_tokens=4, seconds=0.5),
    )
    return report_traces.write(
        folder / "t",
        rows,
        LENGTHS,
        texts=[HOSTILE, "", "x" * 200],
        vocabulary=[HOSTILE, "\n", *VOCABULARY],
        attributes={
            **ATTRIBUTES,
            "model_name": f"by/{HOSTILE}",
            "config": f"texts: [{HOSTILE}]",
        },
        execution=Execution(modules=("h.0", "h.0.mlp"), orders=(events,), forwards=passes),
    )


@pytest.fixture(scope="module")
def page(trace, tmp_path_factory):
    return ReadPage(trace.report(tmp_path_factory.mktemp("page") / "r.html").path)


# --- one file that asks nobody


def test_nothing_in_the_page_names_another_place(page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "srcset", "data"):
            value = attributes.get(name) or ""
            assert value == "data:," or value.startswith("#") or not value, (tag, value)
    for style in page.styles:
        assert not re.search(r"url\(|@import", style)


def test_the_page_runs_its_own_code_and_style_and_no_other(page):
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    (unpacking,), (style,) = page.code, page.styles

    def digest(text):
        return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    assert f"script-src '{digest(unpacking)}' '{digest(page.packed_code)}';" in policy
    assert f"style-src '{digest(style)}';" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not any(name.startswith("on") or name == "style" for _, a in page.tags for name in a)


def test_hostile_text_opens_no_element(page):
    assert len(page.code) == 1
    assert "alert(1)" not in page.code[0]
    assert "alert(1)" not in page.packed_code
    assert "‹U+202E›" in page.text
    assert page.json("0-example")["tokens"][0] == HOSTILE.replace("\x1b", "␛").replace(
        "\u202e", "‹U+202E›"
    )
    assert page.json("0-example")["tokens"][1] == "⏎"


def test_the_same_trace_gives_the_same_page(trace, page, tmp_path):
    again = trace.report(tmp_path / "r.html").path
    assert ReadPage(again).blocks == page.blocks
    assert ReadPage(again).start == page.start


# --- what is in it


def test_the_start_lists_what_is_there(page):
    start = page.start
    assert [e["number"] for e in start["examples"]] == [0, 1, 2]
    assert [e["n_tokens"] for e in start["examples"]] == list(LENGTHS)
    assert all(e["attention"] for e in start["examples"])
    assert start["examples"][2]["excerpt"] == "x" * 80
    assert [(n["name"], n["n_all"]) for n in start["neurons"]] == [("h.0.mlp", 6)]
    assert start["execution"] is True


def test_execution_is_the_runs(page):
    found = page.json("execution")
    assert found["modules"] == ["h.0", "h.0.mlp"]
    assert found["recorded"] == [[], ["output"]]
    assert found["orders"] == [
        {"phases": {"forward": 2}, "events": [[0, 1, 0], [1, 1, 1], [1, 0, 1], [0, 0, 0]]}
    ]
    assert [tuple(p.values()) for p in found["passes"]] == [
        (0, "forward", 3, 35, 0.25),
        (0, "forward", 1, 4, 0.5),
    ]
    assert found["phases"] == [{"phase": "forward", "n": 2, "median_s": 0.375}]
    assert (found["n_passes"], found["n_orders"], found["seconds"]) == (2, 1, 0.75)


def test_provenance_is_told(page):
    assert "by/</script>" in page.text
    assert "texts: [</script>" in page.text
    assert "3 examples" in page.text
    assert "35 tokens" in page.text
    assert "h.0.attn/pattern" in page.text


def test_a_section_without_data_says_which_probe_to_add(page, tmp_path):
    assert "Add the probe: - {sites: logits, record: [top_k]}" in page.text
    assert "Add the probe: - sites: pattern" not in page.text
    bare = report_traces.write(
        tmp_path / "t", [(site("x", row_shape=(2, 2)), np.zeros((2, 2, 2)))], (2,)
    )
    text = ReadPage(bare.report(tmp_path / "r.html").path).text
    for probe in (
        "- sites: pattern",
        "- {sites: logits, record: [top_k]}",
        "- sites: resid_post",
        "- sites: mlp_post",
        "generate: {max_new_tokens: 20}",
        "execution_order: true",
    ):
        assert probe in text


def test_a_long_config_is_cut_and_says_so(tmp_path):
    trace = report_traces.write(
        tmp_path / "t",
        [(site(), np.zeros((1, 3)))],
        (1,),
        attributes={**ATTRIBUTES, "config": "x" * 60_000},
    )
    text = ReadPage(trace.report(tmp_path / "r.html").path).text
    assert "10,000 more characters are in the trace" in text


def test_notes_of_the_run_are_told_and_those_that_cannot_be_read(tmp_path):
    trace = report_traces.write(tmp_path / "t", [(site(), np.zeros((1, 3)))], (1,))
    record = trace.path.parent / "run.json"
    write_record(record, {"identity": {}, "provenance": {"notes": ["1 text was <cut>"]}})
    assert "1 text was <cut>" in ReadPage(trace.report(tmp_path / "r.html").path).text
    record.write_text("{")
    text = ReadPage(trace.report(tmp_path / "r.html").path).text
    assert "the notes of the run cannot be read: " in text
    assert "run.json: is damaged" in text


def test_values_that_are_not_what_they_should_be_are_told(tmp_path):
    rows = [
        (site(f"h.{n}", details={"n_nonfinite": n, "n_overflow": 2 * n - 2}), np.zeros((1, 3)))
        for n in (1, 2)
    ]
    trace = report_traces.write(tmp_path / "t", rows, (1,))
    text = ReadPage(trace.report(tmp_path / "r.html").path).text
    assert "h.{1..2}/output: 3 values are not finite" in text
    assert "h.{1..2}/output: 2 values overflowed" in text


def test_a_lone_shard_has_a_report(trace, tmp_path):
    shard = open_trace(trace.path.parent / "shards" / "00000.h5")
    page = ReadPage(shard.report(tmp_path / "r.html").path)
    assert page.json("1-example")["tokens"] == ["<4>"]  # its vocabulary is in the index


# --- choosing and fitting


def test_the_first_examples_are_taken_and_the_rest_is_told(trace, tmp_path):
    written = trace.report(tmp_path / "r.html", examples=1)
    assert written.examples == (0,)
    assert written.left_out == ("2 of 3 examples: listed, but not in full (--examples)",)
    assert written.left_out[0] in ReadPage(written.path).text
    assert written.n_bytes == written.path.stat().st_size


def test_neurons_can_be_left_out(trace, tmp_path):
    written = trace.report(tmp_path / "r.html", neurons=0)
    assert written.left_out == ("neurons: not asked for (--neurons)",)
    page = ReadPage(written.path)
    assert page.start["neurons"] == []
    assert "The neurons are not in this report" in page.text


def test_examples_can_be_named(trace, tmp_path):
    written = trace.report(tmp_path / "r.html", examples=[-1, 0, 2])
    assert written.examples == (2, 0)


_BESIDES = ("start", "block-script", "block-scores")  # not in the budget, or behind the examples


def test_what_has_no_room_is_left_out_and_told(trace, tmp_path, monkeypatch):
    whole = trace.report(tmp_path / "whole.html")
    names = [b for b in ReadPage(whole.path).blocks if b.startswith("2-")]
    sizes = {n: len(ReadPage(whole.path)._data[f"block-{n}"]) for n in names}
    # Room for everything but the attention of the long example.
    kept_free = writing._PAGE_BYTES
    data = ReadPage(whole.path)._data.items()
    blocks = sum(len(t) + 80 for name, t in data if name not in _BESIDES)
    room = blocks - sum(s for n, s in sizes.items() if n != "2-example")
    monkeypatch.setattr(writing, "_LEAST_BYTES", 1)
    written = trace.report(tmp_path / "r.html", max_bytes=kept_free + room)
    assert written.left_out[0] == "the attention of example 2 (30 tokens): no room (--max-bytes)"
    assert written.left_out[1:] in ((), ("the head scores: no room (--max-bytes)",))
    page = ReadPage(written.path)
    assert [e["attention"] for e in page.start["examples"]] == [True, True, False]
    assert [b for b in page.blocks if b.startswith("2-")] == ["2-example"]
    tight = trace.report(tmp_path / "r.html", max_bytes=kept_free + 10)
    assert tight.examples == ()
    assert tight.left_out == (
        "the overview of all examples: no room (--max-bytes)",
        "the neurons of h.0.mlp/output: no room (--max-bytes)",
        "the execution order: no room (--max-bytes)",
        "3 examples from number 0 on: no room (--max-bytes)",
    )
    text = ReadPage(tight.path).text
    assert text.count("No example is in this report") == 4
    assert "The execution order is not in this report" in text
    assert "was not recorded" not in text.replace("Next-token candidates were not recorded", "")


def test_a_file_never_grows_beyond_its_limit(tmp_path):
    draw = np.random.default_rng(0)
    lengths = (200, 200, 200)
    spec = report_traces.attention_site(0, 16, 200)
    rows = report_traces.attention(draw, lengths, 16)
    trace = report_traces.write(tmp_path / "t", [(spec, rows)], lengths)
    for limit in (1 << 20, 1_200_000, 1_500_000):
        written = trace.report(tmp_path / "r.html", max_bytes=limit)
        assert written.n_bytes <= limit
        assert written.left_out


# --- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": [0, 3]}, r"example 3 is out of range: there are 3 \(0..2\)"),
        ({"examples": []}, "examples: given none, expected at least one"),
        ({"examples": 0}, "examples: given 0, expected at least 1"),
        ({"neurons": -1}, "neurons: given -1, expected a number from 0 up"),
        ({"max_bytes": 10}, "max_bytes: given 10, expected at least 1048576"),
    ],
)
def test_wrong_options_are_told(trace, tmp_path, options, message):
    with pytest.raises(StoreError, match=message):
        trace.report(tmp_path / "r.html", **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_or_a_place_that_is_a_folder_is_told(trace, tmp_path):
    with pytest.raises(StoreError, match=r"r.html: there is no folder .*nowhere; make it first"):
        trace.report(tmp_path / "nowhere" / "r.html")
    with pytest.raises(StoreError, match="is a folder; expected the name of a file"):
        trace.report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_page_that_could_not_be_written_leaves_the_old_one(trace, tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    old = "<!doctype html><title>a · probekit report</title>"
    path.write_text(old)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.shutil, "copyfileobj", full)
    with pytest.raises(StoreError, match="No space left on device"):
        trace.report(path)
    assert path.read_text() == old
    assert list(tmp_path.iterdir()) == [path]


def test_an_earlier_report_is_replaced_and_any_other_file_only_when_it_is_said(trace, tmp_path):
    path = tmp_path / "gg.yaml"
    path.write_text("model: gpt2\n")
    says = "gg.yaml: exists and is no report of probekit; give another name, or overwrite it"
    with pytest.raises(StoreError, match=says):
        trace.report(path)
    assert path.read_text() == "model: gpt2\n"
    trace.report(path, overwrite=True)
    path.write_bytes(path.read_bytes() + b"<!-- more -->")
    trace.report(path)
    assert not path.read_bytes().endswith(b"more -->")


def test_a_report_never_replaces_the_trace(trace, tmp_path):
    copy = shutil.copytree(trace.path.parent, tmp_path / "t")
    (tmp_path / "link.html").symlink_to(copy / "trace.h5")
    before = (copy / "trace.h5").read_bytes()
    for path in (copy / "trace.h5", tmp_path / "link.html"):
        with pytest.raises(StoreError, match=r"is the trace itself|in the folder of a run"):
            open_trace(copy).report(path, overwrite=True)
    assert (copy / "trace.h5").read_bytes() == before


def test_the_method_has_the_functions_options():
    method = inspect.signature(Trace.report).parameters
    function = inspect.signature(write_report).parameters
    for name in ("examples", "neurons", "lens", "max_bytes", "overwrite"):
        assert method[name].default == function[name].default
        assert method[name].kind == function[name].kind
