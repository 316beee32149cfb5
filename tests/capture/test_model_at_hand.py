"""A model in memory: what is recorded of it, what it is afterwards, which runs go on with it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import by_hand
import lent_models as lent
import pytest
import tiny_models as tiny
import torch
import yaml
from by_hand import EXAMPLES
from lent_models import MANY_SHARDS, MODELS, MineError, run, shard_bytes
from transformers import FalconConfig, FalconForCausalLM
from typer.testing import CliRunner

import probekit
from probekit.cli.commands import app
from probekit.errors import CaptureError, PlanError, ProbekitError
from probekit.inputs import ALONE


class KilledError(BaseException):
    """What nobody takes for an error of the model's."""


@pytest.fixture
def words(tmp_path: Path) -> Any:
    return lent.tokenizer(tmp_path)


# --- true: what is stored is what bare hooks see on the very object


@pytest.mark.few(5)
@pytest.mark.parametrize("name", MODELS)
def test_every_output_equals_a_hand_written_hook_bit_for_bit(tmp_path, words, name):
    model = MODELS[name]()
    before = lent.marks(model)
    trace = run(tmp_path / "t", model, words)
    assert lent.marks(model) == before
    assert trace.provenance["model_name"] == f"memory:{type(model).__name__}"
    assert lent.outputs_equal_hooks(tmp_path / "t", by_hand.watch_batches(model.eval())) > 30


@pytest.mark.rehearsed
def test_packed_weights_run_each_text_alone_where_batches_reach_its_rows(tmp_path, words):
    model = lent.packed()  # it rounds what it reads by the largest value of the batch
    before = lent.marks(model)
    trace = run(tmp_path / "t", model, words, probes=[{"modules": "**.{mlp,self_attn}"}])
    assert trace.provenance["self_check_batches"] == ALONE
    assert lent.marks(model) == before
    layouts = by_hand.watch_batches(model.eval()).layouts
    there = {name: layouts[name] for name in trace.site_names}
    assert lent.outputs_equal_hooks(tmp_path / "t", by_hand.watch_alone(model, there)) == 6


@pytest.mark.parametrize("name", ["adapted", "copied", "headless", "steered"])
def test_portable_names_lie_inside_of_what_wraps_a_model(tmp_path, words, name):
    model = MODELS[name]()
    trace = run(tmp_path / "t", model, words, probes=[{"sites": ["resid_post", "z", "pattern"]}])
    blocks = [path for path, m in model.named_modules() if path.endswith(("h.2", "layers.2"))]
    rows = by_hand.watch_batches(model.eval())(f"{blocks[0]}/output")
    site = trace.select("resid_post", layer=2)
    assert site.name == f"{blocks[0]}/output"
    assert by_hand.bits_of(tmp_path / "t", site.name) == by_hand.tensor_bits(rows)
    assert len(trace.site_names) == 9


def test_generation_is_that_of_transformers(tmp_path, words):
    model = lent.tuned()
    before = lent.marks(model)
    probes = [{"sites": "resid_post"}]
    trace = run(tmp_path / "t", model, words, probes=probes, generate={"max_new_tokens": 4})
    assert lent.marks(model) == before
    model.eval()
    for number, ids in enumerate(EXAMPLES):
        given = torch.tensor([ids])
        found = model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=4, do_sample=False
        )
        assert trace.examples[number].token_ids.tolist() == found[0].tolist()


def test_a_run_from_memory_equals_one_from_the_saved_folder(tmp_path, words):
    model = tiny.build("gpt2")
    source = by_hand.save_model(tmp_path / "model", model)
    run(tmp_path / "memory", model, words)
    probekit.run(by_hand.config(source, tmp_path / "folder", probes=lent.OUTPUTS))
    names = by_hand.site_names(tmp_path / "memory" / "trace.h5")
    assert names == by_hand.site_names(tmp_path / "folder" / "trace.h5")
    for name in names:
        folders = (tmp_path / "memory", tmp_path / "folder")
        assert len({by_hand.bits_of(folder, name) for folder in folders}) == 1, name


def test_rotary_tables_that_the_user_has_stretched_are_fresh_in_a_run_and_stretched_after(
    tmp_path, words
):
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    made = {"rope_parameters": rope, "max_position_embeddings": 16}
    model, fresh = tiny.build("llama", **made), tiny.build("llama", **made)
    with torch.no_grad():
        model(input_ids=torch.arange(40)[None] + 3)
    assert not torch.equal(model.model.rotary_emb.inv_freq, fresh.model.rotary_emb.inv_freq)
    before = lent.marks(model)
    probes = [{"sites": "resid_post"}]
    run(tmp_path / "t", model, words, probes=probes)
    run(tmp_path / "fresh", fresh, words, probes=probes)
    assert lent.marks(model) == before
    assert shard_bytes(tmp_path / "t") == shard_bytes(tmp_path / "fresh")


# --- no mark


def test_nothing_is_left_after_an_error_a_ctrl_c_and_a_second_run(tmp_path, words):
    model = lent.checkpointed()
    model.transformer_calls = 0
    model.model.layers[0].register_forward_hook(lambda *_: None)
    before = lent.marks(model)
    for error in (MineError, KeyboardInterrupt):

        def fail(progress: Any, error: Any = error) -> None:
            raise error

        with pytest.raises(error):
            run(tmp_path / "t", model, words, on_progress=fail, **MANY_SHARDS)
        assert lent.marks(model) == before
    for _ in range(2):
        run(tmp_path / "t", model, words, **MANY_SHARDS)
        assert lent.marks(model) == before
    model(**by_hand.pad(EXAMPLES)).logits.sum().backward()  # and it trains on


def test_nothing_is_left_by_a_model_that_fails_while_it_is_looked_at(tmp_path, words):
    model = lent.checkpointed()

    def fail(*_: Any) -> None:
        raise MineError("mine")

    model.model.layers[1].register_forward_hook(fail)
    before = lent.marks(model)
    with pytest.raises(
        PlanError, match=r"^model: .*, with all hooks.*, fails on token ids.*MineError: mine"
    ):
        run(tmp_path / "t", model, words)
    assert lent.marks(model) == before


# Python itself drops an exception that comes to a thread in the callback of a weak reference.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*WeakValueDictionary:pytest.PytestUnraisableExceptionWarning"
)
def test_a_thread_that_dies_leaves_nothing_and_the_model_is_free(tmp_path, words):
    import ctypes

    model, seen = lent.checkpointed(), threading.Event()
    before = lent.marks(model)
    died = []

    def work() -> None:
        try:
            run(tmp_path / "t", model, words, on_progress=lambda _: seen.set(), **MANY_SHARDS)
        except KilledError:
            died.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    assert seen.wait(60)
    kill = ctypes.pythonapi.PyThreadState_SetAsyncExc
    assert kill(ctypes.c_ulong(thread.ident), ctypes.py_object(KilledError)) == 1
    thread.join(60)
    assert died or len(probekit.open(tmp_path / "t").examples) == len(EXAMPLES)
    assert lent.marks(model) == before
    run(tmp_path / "t", model, words, **MANY_SHARDS)


def test_a_model_that_another_run_has_is_refused_until_it_ends(tmp_path, words):
    model = lent.adapted()
    refused = []

    def again(progress: Any) -> None:
        with pytest.raises(CaptureError, match=r"another run has this .* already, in the thread"):
            run(tmp_path / "other", model.inside, words, **MANY_SHARDS)
        refused.append(progress)

    run(tmp_path / "t", model, words, on_progress=again, **MANY_SHARDS)
    assert len(refused) == len(EXAMPLES)
    run(tmp_path / "other", model.inside, words, **MANY_SHARDS)


def test_merging_classes_are_not_asked_to_merge(tmp_path, words):
    class Merging(lent.LoRALinear):
        def train(self, mode: bool = True) -> Any:
            raise MineError("merged")

    model = lent.replaced(tiny.build("llama"), "up_proj", Merging)
    run(tmp_path / "t", model, words, **MANY_SHARDS)


# --- bad input


class Plain(torch.nn.Module):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return input_ids


class Renaming(lent.Wrapper):
    def forward(self, ids: torch.Tensor) -> Any:
        return self.inside(ids)


def spread() -> Any:
    model = tiny.build("llama")
    model.lm_head.to("meta")
    return model


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("gpt2", {}, r"model is 'gpt2' \(text\); expected a torch.nn.Module"),
        (Plain(), {}, "Plain is no model of transformers.*probekit.record"),
        (Renaming(tiny.build("gpt2")), {}, r"Renaming.forward\(ids\) takes no input_ids"),
        (spread(), {}, "not in memory .*meta device"),
        (tiny.build("gpt2"), {"model__dtype": "bfloat16"}, "model.dtype: given bfloat16.*float32"),
        (tiny.build("gpt2"), {"model__device": "cuda"}, "model.device: given cuda.*has cpu"),
        (tiny.build("gpt2"), {"model__attention": "eager"}, "model.attention: given eager.*sdpa"),
        (tiny.build("gpt2"), {"model__weights": "random"}, "model.weights: .*leave it out"),
        (tiny.build("gpt2"), {"model__revision": "v1"}, "model.revision: .*leave it out"),
        (tiny.build("gpt2"), {"model__overrides": {"n_layer": 1}}, "model.overrides: .*leave it"),
        (tiny.build("gpt2"), {"model__tokenizer": "x"}, "model.tokenizer: .*a tokenizer came with"),
        (
            lent.adapted(),
            {"generate": {"max_new_tokens": 2}},
            "Wrapper wraps LlamaForCausalLM, which generates past it",
        ),
    ],
)
def test_what_cannot_be_run_is_told_in_one_message(tmp_path, words, model, more, said):
    with pytest.raises(ProbekitError, match=said):
        run(tmp_path / "t", model, words, **more)


def test_what_a_config_says_as_the_model_is_no_contradiction(tmp_path, words):
    same = {"model__name": "gpt2", "model__dtype": "float32", "model__attention": "sdpa"}
    plan = probekit.plan(
        lent.config(tmp_path / "t", model__device="cpu", **same),
        model=tiny.build("gpt2"),
        tokenizer=words,
    )
    assert plan.config.model.name == "memory:gpt2"
    assert len(plan.sites) > 30


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        ("gpt2", r"tokenizer is 'gpt2' \(text\); expected a tokenizer of transformers"),
        (None, "model.tokenizer: .*no tokenizer came with it"),
    ],
)
def test_texts_need_a_tokenizer(tmp_path, tokenizer, said):
    with pytest.raises(ProbekitError, match=said):
        run(tmp_path / "t", tiny.build("gpt2"), tokenizer)


def test_a_tokenizer_of_another_model_is_told(tmp_path):
    with pytest.raises(ProbekitError, match=r"token id 99 .*vocabulary \(0..49\).*does not belong"):
        small = tiny.build("gpt2", vocab_size=50)
        run(tmp_path / "t", small, lent.tokenizer(tmp_path))


def test_token_ids_need_no_tokenizer(tmp_path):
    config = lent.config(tmp_path / "t", inputs={"tokens": [list(ids) for ids in EXAMPLES]})
    trace = probekit.run(config, model=tiny.build("gpt2"))
    assert trace.examples[0].token_ids.tolist() == list(EXAMPLES[0])


def test_patterns_that_only_eager_attention_shows_are_refused_and_the_kernel_stays(tmp_path, words):
    probes = [{"modules": "transformer.h.*.self_attention", "record": "pattern"}]
    sizes = {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    hf_config = FalconConfig(**sizes)
    model = FalconForCausalLM(hf_config)
    before = lent.marks(model)
    with pytest.raises(PlanError, match=r"shows no pattern.*runs with sdpa.*implementation=.eager"):
        run(tmp_path / "t", model, words, probes=probes)
    assert lent.marks(model) == before
    model = FalconForCausalLM._from_config(hf_config, attn_implementation="eager")
    assert len(run(tmp_path / "t", model, words, probes=probes).site_names) == 3


def test_a_block_that_was_taken_out_is_told_and_the_others_are_recorded(tmp_path, words):
    model = tiny.build("gpt2")
    model.transformer.h = model.transformer.h[:2]
    trace = run(tmp_path / "t", model, words, probes=[{"sites": "resid_post"}])
    assert trace.site_names == ("transformer.h.0/output", "transformer.h.1/output")
    with pytest.raises(PlanError, match=r"transformer.h.2 is no module of this GPT2LMHeadModel"):
        run(tmp_path / "u", model, words, probes=[{"sites": "resid_post", "layers": [2]}])


def test_head_out_of_an_adapted_projection_is_refused(tmp_path, words):
    class Linear(lent.LoRALinear):
        """Called as PEFT calls it."""

    model = lent.replaced(tiny.build("llama"), "o_proj", Linear)
    with pytest.raises(PlanError, match="no one linear map reads its heads"):
        run(tmp_path / "t", model, words, probes=[{"sites": "head_out"}])
    with pytest.raises(PlanError, match="Linear with more in it reads its heads"):
        probekit.record(model, "model.layers.0.self_attn/head_out")


@pytest.mark.parametrize("more", [{"tokenizer": object()}, {"digest": False}])
def test_what_goes_with_a_model_is_refused_without_one(tmp_path, more):
    with pytest.raises(PlanError, match="goes with model="):
        probekit.run(by_hand.config("sample:tiny-gpt2", tmp_path, probes=lent.OUTPUTS), **more)


@pytest.mark.parametrize("command", ["run", "plan", "tokens", "modules", "run --repair"])
def test_the_command_line_says_that_a_model_in_memory_needs_python(tmp_path, command):
    file = tmp_path / "memory.yaml"
    config = lent.config(tmp_path / "t", model__name="memory:mine")
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    said = CliRunner().invoke(app, [*command.split(), str(file)])
    assert isinstance(said.exception, ProbekitError)
    assert "model.name: memory:mine is a model in memory, which only Python" in str(said.exception)
    assert [*tmp_path.iterdir()] == [file]


def test_info_report_verify_and_merge_need_no_model(tmp_path, words):
    run(tmp_path / "t", tiny.build("gpt2"), words, probes=[{"sites": "resid_post"}])
    for command in ("info", "verify", f"report -o {tmp_path / 'r.html'}"):
        said = CliRunner().invoke(app, [*command.split(), str(tmp_path / "t")])
        assert said.exit_code == 0, said.output
    said = CliRunner().invoke(app, ["merge", str(tmp_path / "t"), str(tmp_path / "one.h5")])
    assert said.exit_code == 0, said.output
