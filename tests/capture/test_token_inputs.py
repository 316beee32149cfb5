"""Runs over token ids: the rows of the text that has them, whatever is done with the trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import probekit
from probekit.errors import ConfigError, PlanError, StoreError
from probekit.models import locate
from probekit.planning import view_example
from probekit.report import write_report
from probekit.store import verify

pytestmark = pytest.mark.rehearsed

TEXTS = ["The capital of Japan is Tokyo.", "Cats are 日本", "My favorite color is blue."]
PLACE = locate("sample:tiny-gpt2", "model.name").place


@pytest.fixture(scope="module")
def ids() -> list[list[int]]:
    found: list[list[int]] = AutoTokenizer.from_pretrained(PLACE)(TEXTS)["input_ids"]
    return found


def config(path: Path, name: str = "sample:tiny-gpt2", **given: Any) -> dict[str, Any]:
    positions = given.pop("positions", "all")
    more = given.pop("more", {})
    shard_bytes = given.pop("shard_bytes", "1MiB")
    return {
        "model": {"name": name, "device": "cpu"},
        "inputs": given,
        "probes": [{"sites": ["resid_post", "logits"], "positions": positions}],
        "store": {"path": str(path), "shard_bytes": shard_bytes},
        **more,
    }


def run(given: dict[str, Any], **more: Any) -> probekit.Trace:
    """Carry out a config; a run checks itself in one test, and not in all."""
    return probekit.run(given, **{"self_check": False, **more})


@pytest.fixture(scope="module")
def of_texts(tmp_path_factory: pytest.TempPathFactory) -> probekit.Trace:
    return run(config(tmp_path_factory.mktemp("texts") / "run", texts=TEXTS))


@pytest.fixture(scope="module")
def of_ids(tmp_path_factory: pytest.TempPathFactory, ids: list[list[int]]) -> probekit.Trace:
    return run(config(tmp_path_factory.mktemp("ids") / "run", tokens=ids), self_check=True)


def tables(path: Path) -> dict[str, bytes]:
    """Read all that stands in a trace's index with bare h5py."""
    found: dict[str, bytes] = {}

    def see(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            value = node[()]
            found[name] = (
                repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
            )

    with h5py.File(path / "trace.h5") as file:
        file.visititems(see)
    return found


def test_rows_are_those_of_the_text_that_has_these_ids(
    of_texts: probekit.Trace, of_ids: probekit.Trace, ids: list[list[int]]
) -> None:
    assert tables(of_ids.path.parent) == tables(of_texts.path.parent)
    assert [example.text for example in of_ids.examples] == TEXTS
    assert [example.token_ids.tolist() for example in of_ids.examples] == ids


def test_rows_are_what_a_hook_sees_of_these_ids(tmp_path: Path) -> None:
    odd = [[3, 1, 4, 1, 5], [1549, 0, 0], [9]]
    trace = run(config(tmp_path / "run", tokens=odd))
    model = AutoModelForCausalLM.from_pretrained(PLACE, dtype=torch.float32).eval()
    seen: list[torch.Tensor] = []
    hook = model.transformer.h[1].register_forward_hook(
        lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    site = trace.select("resid_post", layer=1)
    with torch.inference_mode():
        for number, one in enumerate(odd):
            logits = model(torch.tensor([one])).logits[0]
            torch.testing.assert_close(
                torch.from_numpy(np.array(site.example(number))), seen[-1].reshape(len(one), -1)
            )
            rows = np.array(trace.select("logits").example(number))
            torch.testing.assert_close(torch.from_numpy(rows), logits)
    hook.remove()


def test_a_spot_is_found_in_what_the_ids_read_as(tmp_path: Path, ids: list[list[int]]) -> None:
    rows = [
        {"ids": one, "subject": s} for one, s in zip(ids, (" Japan", "日", "blue"), strict=True)
    ]
    plan = probekit.plan(
        config(tmp_path / "run", examples=rows, tokens="ids", positions={"column": "subject"})
    )
    found = view_example(plan, 1)
    assert found.columns == {"subject": "日"}
    assert {token.text for token in found.tokens if token.probes} == {"日"}
    assert [t.text for t in view_example(plan, 0).tokens if t.probes] == [" Japan"]


def test_a_trace_of_ids_is_checked_merged_and_shown(
    tmp_path: Path, of_ids: probekit.Trace, ids: list[list[int]]
) -> None:
    assert not verify(of_ids.path.parent).damages
    of_ids.merge(tmp_path / "one.h5")
    with h5py.File(tmp_path / "one.h5") as file:
        assert file["tokens/id"][:].tolist() == [id for one in ids for id in one]
    write_report(of_ids, tmp_path / "one.html")
    assert "Tokyo" in (tmp_path / "one.html").read_text()
    assert json.dumps(probekit.plan(config(tmp_path / "plan", tokens=ids)).to_json())


def test_tokens_are_generated_behind_ids(tmp_path: Path, ids: list[list[int]]) -> None:
    more = {"generate": {"max_new_tokens": 3, "stop_at_eos": False}}
    one = run(config(tmp_path / "texts", texts=TEXTS, more=more))
    two = run(config(tmp_path / "tokens", tokens=ids, more=more))
    for a, b in zip(one.examples, two.examples, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        assert a.completion == b.completion
    assert tables(tmp_path / "tokens") == tables(tmp_path / "texts")


def test_a_run_goes_on_with_its_ids_and_not_with_others(
    tmp_path: Path, of_ids: probekit.Trace, ids: list[list[int]]
) -> None:
    path = tmp_path / "ids.jsonl"
    path.write_text("\n".join(json.dumps({"ids": one}) for one in ids))
    given = config(tmp_path / "run", file=str(path), tokens="ids", shard_bytes="64KiB")

    def stop(*_: object) -> None:
        if [*(tmp_path / "run" / "shards").glob("*.json")]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(given, on_progress=stop)
    trace = run(given)
    rows, wanted = (np.array(t.select("logits")[:]) for t in (trace, of_ids))
    np.testing.assert_allclose(rows, wanted, rtol=1e-4, atol=1e-5)  # in other batches
    path.write_text("\n".join(json.dumps({"ids": one[::-1]}) for one in ids))
    with pytest.raises(StoreError, match="another run"):
        run(given)


def test_no_tokenizer_is_needed(tmp_path: Path) -> None:
    small = GPT2Config(n_layer=1, n_head=1, n_embd=8, n_positions=16, vocab_size=40)
    GPT2LMHeadModel(small).save_pretrained(tmp_path / "model")
    given = config(tmp_path / "run", str(tmp_path / "model"), tokens=[[1, 2, 39], [4]])
    notes = probekit.plan(given).notes
    trace = run(given)
    assert [example.text for example in trace.examples] == ["", ""]
    assert trace.tokens.id[:].tolist() == [1, 2, 39, 4]
    assert any("no tokenizer that says what these read as" in note for note in notes)
    assert not verify(tmp_path / "run").damages
    with pytest.raises(ConfigError, match=r"tokens\[1\]\[0\]: given 40, the model's vocabulary is"):
        probekit.plan({**given, "inputs": {"tokens": [[1], [40]]}})
    with pytest.raises(ConfigError, match="nobody says which characters a token covers"):
        probekit.plan(
            config(tmp_path / "x", str(tmp_path / "model"), tokens=[1], positions={"match": "a"})
        )


def test_bos_is_put_before_a_text_and_told(tmp_path: Path, ids: list[list[int]]) -> None:
    gpt2 = AutoTokenizer.from_pretrained(PLACE)
    texts = [*TEXTS, f"{gpt2.bos_token}Cats"]
    given = config(tmp_path / "bos", texts=texts, special_tokens="bos")
    notes = probekit.plan(given).notes
    trace = run(given)
    wanted = [[gpt2.bos_token_id, *one] for one in (*ids, gpt2("Cats")["input_ids"])]
    assert [example.token_ids.tolist() for example in trace.examples] == wanted
    same = run(config(tmp_path / "ids", tokens=wanted))
    assert same.select("logits")[:].tobytes() == trace.select("logits")[:].tobytes()
    assert any("is put before each text; by itself the tokenizer adds nothing" in n for n in notes)
    assert any("1 of 4 texts begins with the BOS token <|endoftext|> already" in n for n in notes)


def test_a_field_that_no_input_has_is_refused_but_for_a_run_that_has_begun(tmp_path: Path) -> None:
    given = config(tmp_path / "run", texts=["Cats"])
    named = {**given, "inputs": {"texts": ["Cats"], "field": "prompt"}}
    with pytest.raises(PlanError, match=r"inputs\.field: texts have no fields; leave it out"):
        probekit.run(named)
    trace = probekit.open(run(given).path.parent)
    assert trace.examples[0].text == "Cats"
