"""A run that is not finished, against the same run finished: what is sealed is equal, all else is
an error."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_traces import same_bits

import probekit
from probekit.errors import StoreError
from probekit.trace import summarize_trace

TEXTS = ["Cats are ", "The capital of Japan is", "My favorite color is", "green", "one two three"]


def config(folder: Path, **more: Any) -> dict[str, Any]:
    examples = [
        {"text": f"{TEXTS[n % 5]}{n}", "label": n % 2, "kind": None if n == 4 else "abc"[n % 3]}
        for n in range(15)
    ]
    probes: list[dict[str, Any]] = [
        {"modules": "transformer.h.0"},
        {"modules": "transformer.h.1", "positions": "last"},
        {"modules": "lm_head", "record": ["top_k"], "k": 2},
    ]
    if "generate" not in more:
        probes.append({"modules": "transformer.h.0.mlp", "pool": "mean"})
    return {
        "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
        "inputs": {"examples": examples, "columns": ["label", "kind"]},
        "probes": probes,
        "execution_order": True,
        "store": {"path": str(folder), "shard_bytes": 1},
        **more,
    }


def whole_and_partial(folder: Path, **more: Any) -> tuple[probekit.Trace, probekit.Trace]:
    """Finish a run, and give it beside a copy that lacks its index and two of its shards."""
    whole = probekit.run(config(folder / "whole", **more))
    part = shutil.copytree(folder / "whole", folder / "part")
    for file in (part / "trace.h5", part / "trace.json"):
        file.unlink()
    for number in gone(whole):
        for file in part.glob(f"shards/{number:05d}.*"):
            file.unlink()
    return whole, probekit.open(part, partial=True)


def gone(whole: probekit.Trace) -> list[int]:
    """Say which shards are removed: two in the middle, and all from the tenth on."""
    n_shards = whole.provenance["n_shards"]
    return [n for n in range(n_shards) if n in (2, 6) or n >= 10]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[probekit.Trace, probekit.Trace]:
    return whole_and_partial(tmp_path_factory.mktemp("read"))


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[probekit.Trace, probekit.Trace]:
    folder = tmp_path_factory.mktemp("generated")
    return whole_and_partial(folder, generate={"max_new_tokens": 12})


@pytest.fixture(params=["read", "generated"])
def both(request: pytest.FixtureRequest) -> tuple[probekit.Trace, probekit.Trace]:
    found: tuple[probekit.Trace, probekit.Trace] = request.getfixturevalue(request.param)
    return found


def lacking(whole: probekit.Trace) -> list[int]:
    """Name the examples whose shard is gone: a shard has one of them."""
    assert whole.provenance["n_shards"] == len(whole.examples) == 15
    return gone(whole)


# --- what is sealed


def test_every_sealed_example_is_as_in_the_finished_run(
    both: tuple[probekit.Trace, probekit.Trace],
) -> None:
    whole, part = both
    assert part.site_names == whole.site_names
    assert len(part.examples) == len(whole.examples)
    for number in sorted({*range(15)} - {*lacking(whole)}, reverse=True):
        one, other = part.examples[number], whole.examples[number]
        assert (one.number, one.id, one.text) == (number, other.id, other.text)
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert (one.columns, one.prompt, one.n_generated) == (
            *(other.columns, other.prompt, other.n_generated),
        )
        for name in whole.site_names:
            found, wanted = part[name].example(number), whole[name].example(number)
            assert same_bits(found, np.asarray(wanted))


def test_rows_keep_their_numbers_where_lengths_were_planned(
    read: tuple[probekit.Trace, probekit.Trace],
) -> None:
    whole, part = read
    for name in whole.site_names:
        assert part[name].shape == whole[name].shape
        for number in (0, 1, 3, 4, 9):
            rows = whole[name].rows_of(number)
            assert part[name].rows_of(number) == rows
            assert same_bits(part[name][rows], whole[name][rows])
    assert part.examples[9].first_token == whole.examples[9].first_token
    row = whole.examples[9].first_token
    assert part.tokens[row].example == 9
    assert part.tokens.id[row : row + 2].tolist() == whole.tokens.id[row : row + 2].tolist()


def test_before_the_first_gap_generated_rows_have_their_numbers(
    generated: tuple[probekit.Trace, probekit.Trace],
) -> None:
    whole, part = generated
    end = whole.examples[2].first_token
    assert same_bits(part["transformer.h.0"][:end], whole["transformer.h.0"][:end])
    assert same_bits(part["transformer.h.1"][[1, 0]], whole["transformer.h.1"][[1, 0]])
    assert part.tokens.id[:end].tolist() == whole.tokens.id[:end].tolist()
    assert part.tokens[end - 1].example == whole.tokens[end - 1].example
    assert part["transformer.h.0"].rows_of(1) == whole["transformer.h.0"].rows_of(1)


# --- what is not


def test_an_unsealed_example_has_its_text_and_no_rows(
    both: tuple[probekit.Trace, probekit.Trace],
) -> None:
    whole, part = both
    for number in lacking(whole):
        one, other = part.examples[number], whole.examples[number]
        n_given = other.n_tokens - other.n_generated
        assert (one.number, one.id, one.text) == (number, other.id, other.text)
        assert (one.columns, one.n_generated, one.completion) == (other.columns, 0, "")
        assert one.token_ids.tolist() == other.token_ids[:n_given].tolist()
        said = rf"example {number} is not sealed yet: it will lie in shards/{number:05d}\.h5; 8 of"
        for name in whole.site_names:
            with pytest.raises(StoreError, match=said):
                part[name].example(number)


@pytest.mark.parametrize(
    "use",
    [
        lambda part: part["transformer.h.0"][:],
        lambda part: part["transformer.h.0"].raw(slice(0, 60)),
        lambda part: part["transformer.h.0"].torch(),
        lambda part: np.asarray(part["transformer.h.0"]),
        lambda part: part["transformer.h.0"][[0, 60]],
        lambda part: part["transformer.h.0"][-1],
        lambda part: part["transformer.h.1"][0:12],
        lambda part: part.tokens.id[:],
        lambda part: part.tokens[len(part.tokens) - 1],
        lambda part: part.examples.n_tokens,
        lambda part: part.columns["label"],
        lambda part: part.rows_of_choice("last"),
        lambda part: part["transformer.h.0"].statistics(),
    ],
)
def test_what_is_not_sealed_is_an_error(
    both: tuple[probekit.Trace, probekit.Trace], use: Callable[[Any], Any]
) -> None:
    _, part = both
    with pytest.raises(StoreError, match=r"not sealed yet: .*shards/000\d\d\.h5"):
        use(part)


def test_behind_a_gap_generated_rows_are_read_by_their_example_alone(
    generated: tuple[probekit.Trace, probekit.Trace],
) -> None:
    whole, part = generated
    end = whole.examples[2].first_token
    said = rf"rows from {end} on have no number yet: .*example 2 is not sealed.*site\.example\(n\)"
    for key in (slice(None), slice(end, end + 1), slice(0, end + 1), end, -1, [0, end], ...):
        with pytest.raises(StoreError, match=said):
            part["transformer.h.0"][key]
    with pytest.raises(StoreError, match=said):
        part.tokens.id[end]
    assert whole.examples[6].n_generated < 12, "it ends early, which nobody knows before"
    assert [part.examples[n].first_token for n in (2, 3, 7)] == [-1, -1, -1]


@pytest.mark.parametrize(
    "name",
    [
        *("top_examples", "head_scores", "statistics", "fit_readout", "report", "dataset"),
        *("map_dataset", "to_pandas", "to_xarray", "to_safetensors", "merge"),
    ],
)
def test_what_reads_a_whole_trace_is_refused(
    read: tuple[probekit.Trace, probekit.Trace], name: str
) -> None:
    whole, part = read
    assert callable(getattr(whole, name))
    said = (
        rf"part/trace\.h5: {name} reads a whole trace, and this one is partial: 8 of 15 shards are"
    )
    with pytest.raises(StoreError, match=said):
        getattr(part, name)("x", 1, k=2)


# --- what it says of itself


def test_a_partial_trace_says_so(both: tuple[probekit.Trace, probekit.Trace]) -> None:
    whole, part = both
    assert (whole.is_partial, part.is_partial) == (False, True)
    assert whole.shards_sealed == tuple(range(15))
    assert part.shards_sealed == (0, 1, 3, 4, 5, 7, 8, 9)
    assert "8 of 15 shards are sealed" in repr(part)
    assert part.provenance["n_shards"] == 15
    assert not {"shard", "first_example", "first_token"} & part.provenance.keys()
    own = part.provenance.keys() - whole.provenance.keys()
    assert part.provenance["config"] == whole.provenance["config"], own


def test_a_summary_counts_what_is_planned(both: tuple[probekit.Trace, probekit.Trace]) -> None:
    whole, part = both
    found, wanted = summarize_trace(part), summarize_trace(whole)
    assert (found["n_examples"], found["n_sites"]) == (15, wanted["n_sites"])
    assert found["partial"] == {"n_shards": 15, "shards_sealed": [0, 1, 3, 4, 5, 7, 8, 9]}
    assert "partial" not in wanted
    assert found["execution"]["n_forwards"] < wanted["execution"]["n_forwards"]
    assert found["execution"]["n_modules_run"] == wanted["execution"]["n_modules_run"]


def test_it_can_be_sent_to_another_process(both: tuple[probekit.Trace, probekit.Trace]) -> None:
    _, part = both
    sent = pickle.loads(pickle.dumps(part))
    assert sent.shards_sealed == part.shards_sealed
    assert same_bits(sent["transformer.h.0"].example(4), part["transformer.h.0"].example(4))
    table = pickle.loads(pickle.dumps(part.examples))
    assert table[2].text == part.examples[2].text


def test_a_finished_run_is_the_trace(read: tuple[probekit.Trace, probekit.Trace]) -> None:
    whole, _ = read
    found = probekit.open(whole.path.parent, partial=True)
    assert type(found) is type(whole)
    assert not found.is_partial


def test_without_partial_an_unfinished_run_is_an_error_that_names_it(
    read: tuple[probekit.Trace, probekit.Trace],
) -> None:
    _, part = read
    said = r"is not finished: 8 of 15 shards are sealed; .*partial=True\) reads what is sealed"
    with pytest.raises(StoreError, match=said):
        probekit.open(part.path.parent)


def test_a_run_of_which_nothing_is_sealed_is_an_error(
    read: tuple[probekit.Trace, probekit.Trace], tmp_path: Path
) -> None:
    copy = shutil.copytree(read[1].path.parent, tmp_path / "copy")
    shutil.rmtree(copy / "shards")
    (copy / "shards").mkdir()
    with pytest.raises(
        StoreError, match="none of its 15 shards are sealed yet; wait for the first"
    ):
        probekit.open(copy, partial=True)
    (copy / "inputs.h5").unlink()  # a run that has just begun
    with pytest.raises(StoreError, match="none of its 15 shards are sealed yet"):
        probekit.open(copy, partial=True)
    shutil.copytree(read[1].path.parent / "shards", copy / "shards", dirs_exist_ok=True)
    with pytest.raises(StoreError, match=r"has no inputs\.h5"):
        probekit.open(copy, partial=True)
    with pytest.raises(StoreError, match="holds no trace"):
        probekit.open(tmp_path, partial=True)


def test_what_is_sealed_later_is_seen_when_it_is_opened_again(
    read: tuple[probekit.Trace, probekit.Trace], tmp_path: Path
) -> None:
    whole, part = read
    copy = shutil.copytree(part.path.parent, tmp_path / "copy")
    before = probekit.open(copy, partial=True)
    for file in (whole.path.parent / "shards").glob("00002.*"):
        shutil.copy(file, copy / "shards")
    with pytest.raises(StoreError, match="example 2 is not sealed yet"):
        before["transformer.h.0"].example(2)
    found = probekit.open(copy, partial=True)["transformer.h.0"].example(2)
    assert same_bits(found, whole["transformer.h.0"].example(2))


def test_behind_a_gap_no_row_of_generated_tokens_is_told_by_its_number(
    generated: tuple[probekit.Trace, probekit.Trace],
) -> None:
    whole, partial = generated
    behind = max(set(range(len(whole.examples))) - set(lacking(whole)))
    for name in whole.site_names:
        site = partial[name]
        if site.axis != "token":
            continue
        with pytest.raises(StoreError, match="have no number yet"):
            site.token_rows()
        assert same_bits(site.example(behind), whole[name].example(behind))
        if len(site.example(behind)):
            with pytest.raises(StoreError, match="have no number yet"):
                site.rows_of(behind)


def test_it_stays_the_run_that_was_opened_wherever_the_process_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, text in (("a", "Cats are"), ("b", "My favorite color is")):
        (tmp_path / place).mkdir()
        given = {
            "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
            "inputs": {"texts": [text, text]},
            "probes": [{"sites": "resid_post", "layers": 1}],
            "store": {"path": str(tmp_path / place / "run"), "shard_bytes": 1},
        }
        probekit.run(given)
        for file in ("trace.h5", "trace.json", "shards/00001.h5", "shards/00001.json"):
            (tmp_path / place / "run" / file).unlink()
    monkeypatch.chdir(tmp_path / "a")
    partial = probekit.open("run", partial=True)
    monkeypatch.chdir(tmp_path / "b")
    assert [partial.examples[n].text for n in (0, 1)] == ["Cats are"] * 2
    shutil.copy("run/inputs.h5", tmp_path / "a" / "run")
    shutil.copy("run/inputs.json", tmp_path / "a" / "run")
    with pytest.raises(StoreError, match="its inputs are another run's"):
        probekit.open(tmp_path / "a" / "run", partial=True).examples[1]


def test_what_a_shard_counted_is_not_said_of_all(
    read: tuple[probekit.Trace, probekit.Trace],
) -> None:
    whole, partial = read
    counts = {"n_nonfinite", "n_overflow"}
    for name in whole.site_names:
        left_out = whole[name].attributes.keys() - partial[name].attributes.keys()
        assert left_out <= counts | {"row_shape"}
        assert not counts & partial[name].attributes.keys()
