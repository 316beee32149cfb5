"""Long documents from YAML to trace and back: bare hooks on pieces, by the tokenizer's overflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from by_hand import shard_files
from transformers import AutoModelForCausalLM, AutoTokenizer

import probekit
from probekit.errors import ConfigError, StoreError

PLACE = Path(probekit.__file__).parent / "samples" / "tiny-gpt2"
TEXTS = [
    " ".join(f"The capital of Japan is Tokyo {n}, and cats are nice." for n in range(9)),
    "Cats are nice",
    "日本の首都は東京です。 " * 9 + "My favorite color is blue.",
]
SIZE, STRIDE = 24, 7


def config(path: Path, **given: Any) -> dict[str, Any]:
    rows = [
        {"id": name, "text": t, "label": n}
        for n, (name, t) in enumerate(zip("abc", TEXTS, strict=True))
    ]
    source = {} if {"file", "tokens", "texts"} & given.keys() else {"examples": rows}
    probes = given.pop("probes", [{"sites": "resid_post"}, {"sites": "pattern", "layers": 0}])
    return {
        "model": {"name": "sample:tiny-gpt2", "device": "cpu", "dtype": "float32"},
        "inputs": {
            **source,
            "max_tokens": SIZE,
            "too_long": "split",
            "stride": STRIDE,
            "batch_tokens": 64,
            **given,
        },
        "probes": probes,
        "store": {"path": str(path), "shard_bytes": "64KiB"},
    }


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> probekit.Trace:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "a.yaml").write_text(json.dumps(config(folder / "run")))  # YAML, too
    return probekit.run(folder / "a.yaml")


@pytest.fixture(scope="module")
def pieces() -> tuple[list[list[int]], list[int]]:
    """What the tokenizer itself makes of the texts: the ids of each piece, and its document."""
    found = AutoTokenizer.from_pretrained(PLACE)(
        TEXTS, truncation=True, max_length=SIZE, stride=STRIDE, return_overflowing_tokens=True
    )
    return found["input_ids"], found["overflow_to_sample_mapping"]


def test_rows_are_what_bare_hooks_see_of_the_pieces(
    trace: probekit.Trace, pieces: tuple[list[list[int]], list[int]]
) -> None:
    ids, owners = pieces
    assert [example.token_ids.tolist() for example in trace.examples] == ids
    assert [example.document for example in trace.examples] == owners
    assert max(owners) == 2 and len(ids) > 8
    model = AutoModelForCausalLM.from_pretrained(PLACE, dtype=torch.float32).eval()
    seen: list[torch.Tensor] = []
    model.transformer.h[1].register_forward_hook(
        lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    site = trace.select("resid_post", layer=1)
    with torch.inference_mode():
        for number, one in enumerate(ids):
            model(torch.tensor([one]))
            rows = torch.from_numpy(np.array(site.example(number)))
            torch.testing.assert_close(rows, seen[-1].reshape(len(one), -1))


def test_documents_are_whole_again(trace: probekit.Trace) -> None:
    tokenizer = AutoTokenizer.from_pretrained(PLACE)
    assert len(trace.documents) == 3
    for number, (document, text) in enumerate(zip(trace.documents, TEXTS, strict=True)):
        assert document.number == number
        assert document.id == "abc"[number]
        assert document.text == text
        assert document.token_ids.tolist() == tokenizer(text, verbose=False)["input_ids"]
        assert document.columns == {"label": number}
        assert [trace.examples[n].document for n in document.pieces] == [number] * len(
            document.pieces
        )
    assert trace.documents[-1].text == TEXTS[-1]
    assert [one.id for one in trace.documents[1:]] == ["b", "c"]
    with pytest.raises(IndexError, match="document 3 is out of range"):
        trace.documents[3]


def test_rows_of_a_document_are_those_with_most_tokens_before_them(
    trace: probekit.Trace, pieces: tuple[list[list[int]], list[int]]
) -> None:
    site = trace.select("resid_post", layer=0)
    ids, owners = pieces
    for number in range(3):
        wanted: list[Any] = []
        for n, owner in enumerate(owners):
            if owner == number:  # by hand: of each later piece what the one before has not
                skip = STRIDE if wanted else 0
                wanted += list(np.array(site.example(n))[skip : len(ids[n])])
        found = trace.documents.rows(site, number)
        assert len(found) == trace.documents[number].n_tokens
        assert np.array_equal(found, wanted)
    with pytest.raises(StoreError, match=r"given 'resid_post'.*, expected a site"):
        trace.documents.rows("resid_post", 0)
    with pytest.raises(StoreError, match="lies along the tokens of a piece"):
        trace.documents.rows(trace.select("pattern", layer=0), 0)


def test_special_tokens_have_no_row_of_a_document_and_choices_have_theirs(tmp_path: Path) -> None:
    probes = [
        {"sites": "resid_post", "layers": 0},
        {"sites": "resid_post", "layers": 1, "positions": {"match": " Tokyo"}},
        {"sites": "mlp_out", "layers": 0, "pool": "mean"},
    ]
    texts = TEXTS[:1]
    trace = probekit.run(
        config(tmp_path / "run", texts=texts, special_tokens="bos", probes=probes), self_check=False
    )
    own = AutoTokenizer.from_pretrained(PLACE)(texts[0])
    assert len(trace.documents.rows(trace.select("resid_post", layer=0), 0)) == len(
        own["input_ids"]
    )
    site = trace.select("resid_post", layer=1)
    rows = trace.documents.rows_of(site, 0)
    places = trace.tokens.document_position[site.token_rows()[rows]].tolist()
    spelled = [trace.token_text(int(i)) for i in own["input_ids"]]
    assert places == [n for n, token in enumerate(spelled) if token == " Tokyo"]
    assert len(rows) < len(site)
    with pytest.raises(StoreError, match="one row for each example"):
        trace.documents.rows_of(trace.select("mlp_out", layer=0), 0)


def test_token_ids_are_split_without_special_tokens(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(PLACE)
    ids = [tokenizer(text, verbose=False)["input_ids"] for text in TEXTS]
    trace = probekit.run(config(tmp_path / "run", tokens=ids), self_check=False)
    assert [document.token_ids.tolist() for document in trace.documents] == ids
    assert [document.text for document in trace.documents] == TEXTS


def test_a_site_of_another_trace_is_refused(trace: probekit.Trace, tmp_path: Path) -> None:
    shutil.copytree(trace.path.parent, tmp_path / "copy")
    other = probekit.open(tmp_path / "copy").select("resid_post", layer=0)
    with pytest.raises(StoreError, match="expected a site of"):
        trace.documents.rows(other, 0)


def files(path: Path) -> dict[str, bytes]:
    there = [p for p in path.rglob("*") if p.is_file() and not p.name.endswith("made.json")]
    return {str(p.relative_to(path)): p.read_bytes() for p in there}


def test_a_killed_run_goes_on_with_equal_bytes(trace: probekit.Trace, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trace.path.parent, folder)
    whole = files(folder)
    shards = shard_files(folder)
    assert len(shards) > 2
    for shard in shards[1:]:
        shard.unlink()
        shard.with_suffix(".json").unlink()
    for name in ("trace.h5", "trace.json"):
        (folder / name).unlink()
    probekit.run(config(folder), self_check=False)
    assert files(folder) == whole
    assert probekit.verify(folder).whole


def test_tables_merge_and_shards_say_the_same(trace: probekit.Trace, tmp_path: Path) -> None:
    merged = trace.merge(tmp_path / "one.h5")
    frame = trace.to_pandas("examples")
    assert frame["document"].tolist() == merged.examples.document[:].tolist()
    assert merged.documents[0].text == TEXTS[0]
    places = trace.to_pandas("tokens")["document_position"]
    assert places.tolist() == trace.to_xarray()["token_document_position"].values.tolist()
    shards = [probekit.open(file) for file in shard_files(trace.path.parent)]
    assert len(shards) > 2
    numbers = [n for shard in shards for n in shard.examples.document[:].tolist()]
    assert numbers == frame["document"].tolist()
    last = shards[-1].documents[-1]
    assert (last.number, TEXTS[2].endswith(last.text), bool(last.text)) == (2, True, True)
    with h5py.File(trace.path) as file:
        assert file["examples/document_start"].attrs["units"] == "token"


def test_a_run_of_whole_texts_has_no_documents(tmp_path: Path) -> None:
    given = config(tmp_path / "run", texts=["Cats are"])
    del given["inputs"]["too_long"], given["inputs"]["stride"]
    trace = probekit.run(given, self_check=False)
    assert trace.examples[0].document is None
    assert trace.tokens[0].document_position is None
    with pytest.raises(StoreError, match=r"made without examples/document .*too_long: split"):
        trace.documents  # noqa: B018


# --- what is refused


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"stride": 23, "special_tokens": "bos"},
            "inputs.stride: given 23, expected fewer than 23",
        ),
        ({"stride": None, "max_tokens": 1, "special_tokens": "bos"}, "no room for its document"),
        ({"max_tokens": None, "stride": 256}, "given 256, expected fewer than 256: so many tokens"),
    ],
)
def test_pieces_that_would_not_get_on_are_refused(
    tmp_path: Path, inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        probekit.plan(config(tmp_path / "run", **inputs))
    assert not (tmp_path / "run").exists()
