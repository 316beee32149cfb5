"""Chats from YAML to a trace: what is stored, chosen, told and refused.

The oracle is transformers' own tokens and assistant mask, and a hook written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import transformers
import yaml

import probekit
from probekit.config import load_config
from probekit.errors import ConfigError, StoreError
from probekit.inputs import making
from probekit.inputs.chats import Conversation
from probekit.inputs.rows import Given
from probekit.inputs.texts import read_texts
from probekit.planning import make_plan
from probekit.planning.firstlook import look_first

TEMPLATES = Path(__file__).parent / "chats" / "templates"
MARKED = str(TEMPLATES / "chatml_generation.jinja")
CHATS: list[list[dict[str, str]]] = [
    [
        {"role": "system", "content": "The capital of"},
        {"role": "user", "content": "The capital of Japan is"},
        {"role": "assistant", "content": " Tokyo"},
        {"role": "user", "content": "The capital of Peru is"},
    ],
    [{"role": "user", "content": "Cats are"}, {"role": "assistant", "content": "capital"}],
]
PROBES: list[dict[str, Any]] = [
    {"sites": "resid_post", "positions": {"role": "user", "content": True, "take": "last"}},
    {"sites": "resid_mid", "positions": {"match": "capital"}},
    {"sites": "attn_out", "positions": {"content": True}, "pool": "mean"},
    {"sites": "mlp_out", "positions": {"role": "user", "turn": -1}},
    {"sites": "resid_pre", "positions": {"after": {"match": "is"}, "missing": "skip"}},
    {"sites": "ln_final", "positions": {"match": "user", "in": "all"}},
]


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    inputs = {"messages": CHATS, "chat_template": MARKED, **changes.pop("inputs", {})}
    return {
        "model": {"name": "sample:tiny-gpt2"},
        "inputs": {key: value for key, value in inputs.items() if value is not None},
        "probes": PROBES[:1],
        "store": {"path": str(folder / "run")},
        **changes,
    }


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained("probekit/samples/tiny-gpt2")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> probekit.Trace:
    return probekit.run(config(tmp_path_factory.mktemp("chats"), probes=PROBES))


def theirs(tokenizer: Any, chat: list[dict[str, str]]) -> Any:
    return tokenizer.apply_chat_template(
        chat,
        chat_template=Path(MARKED).read_text(),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )


def places(chat: list[dict[str, str]]) -> Iterator[tuple[int, int, int, int]]:
    """Give by hand where each message begins, its content begins and ends, and it ends."""
    at = 0
    for message in chat:
        begin = at + len(f"<|im_start|>{message['role']}\n")
        end = begin + len(message["content"])
        yield at, begin, end, end + len("<|im_end|>\n")
        at = end + len("<|im_end|>\n")


def rows_of(trace: probekit.Trace, number: int) -> slice:
    example = trace.examples[number]
    return slice(example.first_token, example.first_token + example.n_tokens)


def test_tokens_are_those_that_transformers_gives(trace: probekit.Trace, tokenizer: Any) -> None:
    for number, chat in enumerate(CHATS):
        assert trace.examples[number].token_ids.tolist() == theirs(tokenizer, chat)["input_ids"]


def test_the_assistants_content_is_transformers_mask(trace: probekit.Trace, tokenizer: Any) -> None:
    """Its mask goes on to <|im_end|>, which the template marks as generated, too."""
    for number, chat in enumerate(CHATS):
        mask = np.array(theirs(tokenizer, chat)["assistant_masks"], dtype=bool)
        rows = rows_of(trace, number)
        starts = trace.tokens.char_start[rows]
        for _, _, end, after in places(chat):
            mask &= ~((starts >= end) & (starts < after))
        ours = (trace.tokens.role[rows] == "assistant") & trace.tokens.is_content[rows]
        assert mask.any() and ours.tolist() == mask.tolist()


def test_each_token_has_its_role_its_turn_and_whether_it_is_content(trace: probekit.Trace) -> None:
    for number, chat in enumerate(CHATS):
        rows = rows_of(trace, number)
        starts, ends = trace.tokens.char_start[rows], trace.tokens.char_end[rows]
        for turn, (first, begin, end, after) in enumerate(places(chat)):
            here = (starts >= first) & (starts < after)
            assert {*trace.tokens.turn[rows][here]} == {turn}
            assert {*trace.tokens.role[rows][here]} == {chat[turn]["role"]}
            content = (starts < end) & (ends > begin)
            assert trace.tokens.is_content[rows][here].tolist() == content[here].tolist()


def test_rows_are_those_of_a_hook_at_the_tokens_that_are_chosen(trace: probekit.Trace) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained("probekit/samples/tiny-gpt2")
    expected, pooled = [], []
    for number in range(len(CHATS)):
        ids = torch.tensor(trace.examples[number].token_ids[None].astype(np.int64))
        kept: list[torch.Tensor] = []
        attention: list[torch.Tensor] = []
        last, first = model.transformer.h[-1], model.transformer.h[0].attn
        handles = [
            last.register_forward_hook(lambda _, __, out, k=kept: k.append(out)),
            first.register_forward_hook(lambda _, __, out, k=attention: k.append(out[0])),
        ]
        with torch.no_grad():
            model(ids)
        for handle in handles:
            handle.remove()
        text, spans = trace.examples[number].text, trace.tokens.char_end[rows_of(trace, number)]
        users = [m["content"] for m in CHATS[number] if m["role"] == "user"]
        end = text.rindex(users[-1]) + len(users[-1])
        block = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
        expected.append(block.reshape(-1, block.shape[-1])[int(np.flatnonzero(spans == end)[0])])
        contents = torch.tensor(trace.tokens.is_content[rows_of(trace, number)])
        pooled.append(attention[0].reshape(-1, block.shape[-1])[contents].mean(0))
    found = trace["transformer.h.1/output"][:]
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), rtol=1e-4, atol=1e-5)
    found = trace["transformer.h.0.attn/output"][:]
    np.testing.assert_allclose(found, torch.stack(pooled).numpy(), rtol=1e-4, atol=1e-5)


def texts_at(trace: probekit.Trace, site: str) -> list[str]:
    return [trace.tokens[int(row)].text for row in trace[site].token_rows()]


def test_texts_are_looked_for_in_contents_alone(trace: probekit.Trace) -> None:
    assert texts_at(trace, "transformer.h.0.ln_2/input") == [" capital"] * 3 + ["c", "ap", "ital"]
    everywhere = texts_at(trace, "transformer.ln_f/output")
    assert "".join(everywhere).count("user") == 3  # none of them is content
    last = trace["transformer.h.0.mlp/output"].token_rows()
    assert {int(trace.tokens.turn[row]) for row in last} == {3, 0}
    # A content ends behind " is": what comes next is the template's.
    assert set(texts_at(trace, "transformer.h.0/input")) == {"<"}


def test_columns_come_back_everywhere(trace: probekit.Trace, tmp_path: Path) -> None:
    frame = trace.to_pandas("tokens")
    assert {"role", "turn", "is_content"} <= {*frame.columns}
    assert frame.role.tolist() == trace.tokens.role[:].tolist()
    data = trace.to_xarray()
    assert data.token_role.values.tolist() == frame.role.tolist()
    assert data.token_is_content.dtype == bool
    merged = probekit.open(trace.merge(tmp_path / "one.h5").path)
    assert merged.tokens.role[:].tolist() == frame.role.tolist()
    assert merged.tokens[5] == trace.tokens[5]
    from safetensors import safe_open

    with h5py.File(
        trace.path.parent / "shards" / "00000.h5"
    ) as shard:  # alone, and without probekit
        role = shard["tokens/role"]
        names = [n.decode() if isinstance(n, bytes) else n for n in role.attrs["names"]]
        assert [names[code] for code in role[:]] == frame.role.tolist()
    place = trace.to_safetensors(tmp_path / "t.safetensors")
    with safe_open(place, "np") as file:
        assert json.loads(file.metadata()["names of tokens/role"]) == names


@pytest.mark.parametrize("damage", ["no names", "few names", "names are numbers"])
def test_roles_that_are_no_names_are_refused(
    trace: probekit.Trace, tmp_path: Path, damage: str
) -> None:
    place = trace.merge(tmp_path / "one.h5").path
    with h5py.File(place, "r+") as file:
        role = file["tokens/role"]
        if damage == "no names":
            del role.attrs["names"]
        else:
            role.attrs["names"] = [""] if damage == "few names" else [1, 2, 3, 4]
    with pytest.raises(StoreError, match=r"tokens/role .*name"):
        probekit.open(place).tokens.role[:]


def test_what_is_generated_is_the_turn_that_the_prompt_opens(tmp_path: Path) -> None:
    made = probekit.run(
        config(
            tmp_path,
            inputs={"messages": [CHATS[1][:1]], "template": {"add_generation_prompt": True}},
            generate={"max_new_tokens": 3},
            probes=[{"sites": "resid_post", "positions": {"role": "user", "content": True}}],
        )
    )
    new = made.tokens.step[:] > 0
    assert new.sum() == 3
    assert {*made.tokens.role[:][new]} == {"assistant"} and {*made.tokens.turn[:][new]} == {1}
    assert made.tokens.is_content[:][new].all()
    assert "".join(texts_at(made, "transformer.h.0/output")) == "Cats are"


def test_what_is_generated_is_the_assistants_where_no_prompt_is_written(tmp_path: Path) -> None:
    """Messages are counted as they are given, though the template leaves one out."""
    template = tmp_path / "my.jinja"
    template.write_text(
        "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    chat = [{"role": "system", "content": "S"}, *CHATS[0][1:]]
    made = probekit.run(
        config(
            tmp_path,
            inputs={
                "messages": [chat],
                "chat_template": str(template),
                "template": {"add_generation_prompt": True},
            },
            generate={"max_new_tokens": 3},
            probes=[
                {"sites": "resid_post", "positions": {"turn": 1, "content": True}},
                {"sites": "resid_mid", "positions": {"turn": -1}},
                {"sites": "resid_pre", "positions": {"role": "user", "turn": 0, "content": True}},
            ],
        )
    )
    new = made.tokens.step[:] > 0
    assert {*made.tokens.role[:][new]} == {"assistant"} and {*made.tokens.turn[:][new]} == {4}
    assert made.tokens.is_content[:][new].all()
    for site in ("transformer.h.0/output", "transformer.h.0/input"):
        assert "".join(texts_at(made, site)) == chat[1]["content"]
    assert "Peru" in "".join(texts_at(made, "transformer.h.0.ln_2/input"))


def test_phi3s_chat_format_runs_from_its_config(tmp_path: Path) -> None:
    """Random weights, and small: the hub has the real ones."""
    root = Path(probekit.__file__).parents[1] / "configs"
    given = yaml.safe_load((root / "phi3-chat.yaml").read_text())
    small = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 4}
    given["model"] |= {"weights": "random", "overrides": small, "tokenizer": "sample:tiny-gpt2"}
    given["inputs"]["chat_template"] = str(root / "phi3-chat.jinja")
    given["store"]["path"] = str(tmp_path / "run")
    made = probekit.run(given)
    # The last token of each question, by its text; the sample's tokenizer cuts at the mark.
    assert texts_at(made, "model.layers.1/output") == ["?", "?"]
    assert texts_at(made, "model.layers.1.post_attention_layernorm/input") == ["\n", "\n"]
    assert made["model.layers.1.self_attn/output"].axes[0] == "example"
    assert {*made.tokens.role[:]} == {"system", "user", "assistant"}


# --- where chats come from


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "examples"])
def test_chats_come_from_files_and_examples(tmp_path: Path, kind: str) -> None:
    rows = [{"chat": chat, "label": n} for n, chat in enumerate(CHATS)]
    place = tmp_path / f"a.{kind}"
    inputs: dict[str, Any] = {"messages": "chat", "file": str(place), "columns": ["label"]}
    if kind == "jsonl":
        place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        cells = [json.dumps(chat).replace('"', '""') for chat in CHATS]
        place.write_text("chat,label\n" + "".join(f'"{c}",{n}\n' for n, c in enumerate(cells)))
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), place)
    else:
        inputs = {"messages": "chat", "examples": rows, "columns": None}
    found = [*read_texts(load_config(config(tmp_path, inputs=inputs)))]
    for number, one in enumerate(found):
        assert isinstance(one, Given) and isinstance(one.said, Conversation)
        assert one.said.plain == CHATS[number] and {*one.columns} == {"label"}
    assert len(found) == len(CHATS)


# --- what is told and refused


def refused(tmp_path: Path, **inputs: Any) -> str:
    with pytest.raises(ConfigError) as error:
        make_plan(load_config(config(tmp_path, inputs=inputs)))
    return str(error.value)


def test_a_template_that_writes_bos_gets_no_second_one(tmp_path: Path, tokenizer: Any) -> None:
    template = tmp_path / "bos.jinja"
    template.write_text("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
    plan = make_plan(load_config(config(tmp_path, inputs={"chat_template": str(template)})))
    assert plan.examples is not None
    ids = plan.examples.token_ids(0, 1).tolist()
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert any("writes the BOS token" in note for note in plan.notes)
    assert plan.examples.chat_columns(0, 1)["turn"].tolist()[0] == -1  # type: ignore[union-attr]


def test_each_bad_chat_is_told_with_its_place_message_and_line(tmp_path: Path) -> None:
    template = tmp_path / "strict.jinja"
    template.write_text(
        "{% for m in messages %}\n"
        "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}\n"
        "{{ m.content | reverse }}{% endfor %}"
    )
    said = refused(tmp_path, chat_template=str(template), messages=[CHATS[0], CHATS[1]])
    assert f"inputs.messages[0]: the template refuses it: no system role ({template}:2)" in said
    assert "inputs.messages[1]: message 0 (user)" in said and "in another order" in said


def test_a_template_that_takes_too_much_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "_TOKENIZED_AT_ONCE", 2)
    template = tmp_path / "large.jinja"
    template.write_text("{% if messages[0].role == 'user' %}\n{{ 'a' * 10**11 }}{% endif %}ok")
    chats = [CHATS[0], *[CHATS[1]] * 30]
    said = refused(tmp_path, chat_template=str(template), messages=chats)
    assert said.split("\n") == [
        f"config: inputs.messages[1]: it takes more memory than a template may ({template}:2)"
    ]
    rows = [{"chat": chats[1], "label": {"a": 1}}] * 6  # each has another fault, too
    place = tmp_path / "a.jsonl"
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = {"messages": "chat", "file": str(place), "columns": ["label"]}
    said = refused(tmp_path, chat_template=str(template), **inputs)
    assert said.count("more memory than a template may") == 1


def test_what_needs_no_model_is_told_before_one_is_loaded(tmp_path: Path) -> None:
    place = tmp_path / "a.jsonl"
    place.write_text('{"chat": [{"from": "human", "value": "hi"}]}\n{"chat": "hi"}\n{"chat": []}\n')
    with pytest.raises(ConfigError) as error:
        look_first(load_config(config(tmp_path, inputs={"messages": "chat", "file": str(place)})))
    lines = str(error.value).split("\n")
    assert [line.partition(": ")[0] for line in lines] == [f"{place}:{n}" for n in (1, 2, 3)]
    assert "rename `from` into `role`" in lines[0]
    with pytest.raises(ConfigError, match=r"there is no file .*nowhere\.jinja"):
        look_first(load_config(config(tmp_path, inputs={"chat_template": "nowhere.jinja"})))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"chat_template": None}, "has no chat template; write inputs.chat_template"),
        ({"template": {"arguments": {"enable_thinkin": 1}}}, "nowhere reads 'enable_thinkin'"),
        ({"template": {"tools": [{"type": "function"}]}}, "nowhere reads tools"),
    ],
)
def test_what_the_template_does_not_know_is_refused(
    tmp_path: Path, inputs: dict[str, Any], said: str
) -> None:
    assert said in refused(tmp_path, **inputs)


def test_a_spot_that_no_chat_has_says_why(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"role": "system"}, "has no token of such a turn, in example 1"),
        ({"match": "im_start"}, "is in no content, but in what the template writes"),
        ({"role": "user", "content": True, "take": 40}, "so there is no number 40"),
        ({"match": "Tokyo", "role": "user"}, "has no token of such a turn"),
    ]
    sites = ("resid_post", "resid_pre", "mlp_out", "attn_out")
    probes = [
        {"sites": site, "positions": positions}
        for site, (positions, _) in zip(sites, wrong, strict=True)
    ]
    with pytest.raises(ConfigError) as error:
        make_plan(load_config(config(tmp_path, probes=probes)))
    lines = str(error.value).split("\n")
    for line, (_, said) in zip(lines, wrong, strict=True):
        assert said in line
    probes = [{"sites": "resid_post", "positions": {"role": "usr"}}]
    with pytest.raises(ConfigError, match="no chat has a turn of 'usr'; did you mean user"):
        make_plan(load_config(config(tmp_path, probes=probes)))


def test_texts_have_no_roles(tmp_path: Path) -> None:
    plain = config(tmp_path, probes=[{"sites": "resid_post", "positions": {"role": "user"}}])
    plain["inputs"] = {"texts": ["a"]}
    with pytest.raises(ConfigError, match="role is of chats, and the inputs are none"):
        make_plan(load_config(plain))
