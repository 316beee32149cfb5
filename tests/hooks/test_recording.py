"""`probekit.record` in a notebook, on any module."""

from __future__ import annotations

from typing import Any

import by_hand
import pytest
import tiny_models as tiny
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

import probekit
from probekit.errors import CaptureError, ConfigError, PlanError, ProbekitError


class Net(nn.Module):
    """Not of transformers: convolutions, a tuple, keywords, a layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.split = Split()
        self.idle = nn.Linear(8, 8)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image).mean((2, 3))
        for block in self.blocks:
            x = block(x)
        left, right = self.split(values=self.blocks[0](x))
        return left * right["b"]


class Split(nn.Module):
    def forward(self, *, values: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return values + 1, {"b": values - 1}


IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


# --- what is recorded


def test_it_gives_the_very_tensor_that_a_hook_sees(net):
    seen: list[Tensor] = []
    net.stem.register_forward_hook(lambda m, a, output: seen.append(output))
    with probekit.record(net, "stem") as rec:
        net(IMAGE)
    assert rec["stem"] is seen[0]
    assert rec["stem"].shape == (2, 8, 4, 4)
    assert rec["stem"].requires_grad, "as the module made it"


def test_globs_kinds_and_calls(net):
    with probekit.record(net, ["blocks.*", "blocks.{0..1}/input", "split/input.values"]) as rec:
        net(IMAGE)
        net(IMAGE + 1)
    assert list(rec) == [
        *("blocks.0/output", "blocks.1/output", "blocks.2/output"),
        *("blocks.0/input", "blocks.1/input", "split/input.values"),
    ]
    assert len(rec) == 6
    assert len(rec.calls("blocks.0")) == 4, "two in each pass"
    assert len(rec.calls("blocks.1/output")) == 2
    assert rec["blocks.0"] is rec.calls("blocks.0")[-1]
    for number, image in enumerate((IMAGE, IMAGE + 1)):
        pooled = net.stem(image).mean((2, 3))
        assert torch.equal(rec.calls("blocks.0/input")[2 * number], pooled)
        chain = net.blocks[2](net.blocks[1](net.blocks[0](pooled)))
        assert torch.equal(rec.calls("blocks.2")[number], chain)
        assert torch.equal(rec.calls("split/input.values")[number], net.blocks[0](chain))


def test_one_call_of_several(net):
    with probekit.record(net, ["blocks.0/output@1", "blocks.0/output@0"]) as rec:
        net(IMAGE)
        net(IMAGE)
    first = net.blocks[0](net.stem(IMAGE).mean((2, 3)))
    assert torch.equal(rec["blocks.0/output@0"], first)
    later = net.blocks[0](net.blocks[2](net.blocks[1](first)))
    assert torch.equal(rec["blocks.0/output@1"], later)
    assert len(rec.calls("blocks.0/output@1")) == 2


def test_the_first_tensor_of_a_tuple_is_its_output(net):
    with probekit.record(net, ["split", "split/input"]) as rec:
        net(IMAGE)
    assert torch.equal(rec["split"], rec["split/input"] + 1)


def test_portable_names_of_a_known_family():
    model, inputs = tiny.build("llama"), tiny.batch()
    wanted = [("model.layers.2", "output"), ("model.layers.1.post_attention_layernorm", "input")]
    expected = tiny.watch(model, inputs, wanted)
    with probekit.record(model, ["resid_post", "resid_mid", "logits"]) as rec, torch.no_grad():
        logits = model(**inputs).logits
    assert len(rec) == 7
    for (module, kind), tensor in expected.items():
        assert torch.equal(rec[f"{module}/{kind}"], tensor)
    assert torch.equal(rec["lm_head"], logits)


def test_everything_of_a_family_equals_hand_written_hooks():
    model, inputs = tiny.build("gpt2"), tiny.batch()
    seen = {name: t for name, t in by_hand.watch(model, **inputs).sites().items() if "mlp" in name}
    with probekit.record(model, ["**.mlp.*", "**.mlp.*/input"]) as rec, torch.inference_mode():
        model(**inputs, use_cache=False)
    children = {name for name in seen if ".mlp." in name}
    assert set(rec) == children and len(children) == 24
    for name in children:
        assert torch.equal(rec[name], seen[name]), name


# --- true, or loud


def test_a_tensor_that_the_model_changed_in_place_is_an_error_not_a_wrong_value():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    with probekit.record(model, ["0", "1"]) as rec, torch.no_grad():
        model(torch.randn(5, 3))
    assert (rec["1"] >= 0).all()
    with pytest.raises(CaptureError, match=r"0/output: the model changed this tensor in place"):
        rec["0"]
    with pytest.raises(CaptureError, match="inference_mode"):
        rec.calls("0")


def test_inference_mode_keeps_what_was_there_before_the_change():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True)), torch.randn(5, 3)
    with probekit.record(model, ["0", "1"]) as rec, torch.inference_mode():
        model(x)
    assert torch.equal(rec["0"], model[0](x))
    assert torch.equal(rec["1"], model[0](x).relu())


def test_gradients_flow_through_what_was_recorded(net):
    with probekit.record(net, "blocks.1") as rec:
        loss = net(IMAGE).sum()
    (gradient,) = torch.autograd.grad(loss, rec["blocks.1"])
    assert gradient.shape == rec["blocks.1"].shape
    assert gradient.abs().sum() > 0


def test_a_module_that_never_ran_is_an_error(net):
    said = r"never ran inside the block: idle, split/input; ask for modules that"
    recording = probekit.record(net, ["stem", "idle", "split/input", "stem/input"])
    with pytest.raises(CaptureError, match=said), recording as rec:
        net.stem(IMAGE)
    assert list(rec) == ["stem/output", "stem/input"], "what ran is there all the same"


def test_of_many_modules_some_may_never_run(net):
    with probekit.record(net, "**") as rec:
        net(IMAGE)
    # `blocks` is a list of modules, which nothing calls.
    assert list(rec) == [
        *("stem/output", "blocks.0/output", "blocks.1/output", "blocks.2/output", "split/output"),
    ]
    assert len(rec) == 5
    for silent in ("blocks", "idle"):
        with pytest.raises(CaptureError, match=f"{silent} has not run yet"):
            rec[silent]


def test_an_error_of_the_user_is_not_hidden_by_ours(net):
    with pytest.raises(ZeroDivisionError), probekit.record(net, ["idle"]):
        1 / 0  # noqa: B018


def test_asking_before_it_ran_or_for_something_else_is_an_error(net):
    with probekit.record(net, ["stem", "stem/input"]) as rec:
        with pytest.raises(CaptureError, match="stem has not run yet"):
            rec["stem"]
        net(IMAGE)
        with pytest.raises(CaptureError, match=r"blocks.0 was not asked for; recorded: stem/outp"):
            rec["blocks.0"]


@pytest.mark.parametrize(
    ("patterns", "error", "said"),
    [
        ("block.*", PlanError, r"record: 'block.\*' matches no module of Net; the nearest: blocks"),
        ("stem/outputs", ConfigError, "unknown record kind 'outputs'"),
        ("blocks.{0..", PlanError, "never closed"),
        (
            "resid_post",
            PlanError,
            "'resid_post' is no module of Net, and a portable name on",
        ),
        ("resid_psot", PlanError, "the nearest: resid_post, resid_pre, "),
        ("sink", PlanError, "'sink' is a record kind, not a portable name; .*: MODULE/sink,"),
        ("z_kernel", PlanError, "name its module, too: MODULE/z_kernel"),
        (
            [{"sites": ["resid_post"]}],
            PlanError,
            "hold a probe as a config has it; here give",
        ),
        ({"modules": "blocks.*", "record": "input"}, PlanError, "hold a probe as a config has it"),
    ],
)
def test_a_pattern_that_means_nothing_is_refused(net, patterns, error, said):
    with pytest.raises(error, match=said):
        probekit.record(net, patterns)
    assert by_hand.n_hooks(net) == 0


def test_all_wrong_patterns_are_named_together(net):
    with pytest.raises(PlanError) as caught:
        probekit.record(net, ["stem", "nothing", "{"])
    assert len(caught.value.faults) == 2


# --- no mark left behind


def test_the_model_is_as_it_was(net):
    net.stem.register_forward_pre_hook(lambda m, a: None)
    net.train()
    before, state = by_hand.n_hooks(net), {k: v.clone() for k, v in net.state_dict().items()}
    with probekit.record(net, ["**", "**/input"]) as rec:
        assert by_hand.n_hooks(net) > before
        net(IMAGE)
    assert by_hand.n_hooks(net) == before
    assert net.training
    assert all(torch.equal(net.state_dict()[k], v) for k, v in state.items())
    calls = len(rec.calls("stem"))
    net(IMAGE)
    assert len(rec.calls("stem")) == calls, "nothing listens any more"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_mode_and_attention_implementation_stay(training, kernel):
    model = tiny.build("llama", attn_implementation=kernel).train(training)
    with probekit.record(model, ["resid_post", "**.self_attn"]), torch.no_grad():
        model(**tiny.batch())
        assert model.training == training
    assert all(module.training == training for module in model.modules())
    assert model.config._attn_implementation == kernel


def test_hooks_are_gone_after_an_error_in_the_middle_of_a_pass(net):
    net.blocks[1].register_forward_pre_hook(lambda m, a: 1 / 0)
    before = by_hand.n_hooks(net)
    with pytest.raises(ZeroDivisionError), probekit.record(net, "**"):
        net(IMAGE)
    assert by_hand.n_hooks(net) == before


def test_a_recording_can_be_entered_again_but_not_twice_at_once(net):
    rec = probekit.record(net, "stem")
    for n_calls in (1, 2):
        with rec:
            net(IMAGE)
        assert len(rec.calls("stem")) == n_calls
    with rec, pytest.raises(CaptureError, match="attached already"):
        rec.__enter__()
    assert by_hand.n_hooks(net) == 0


def test_two_recordings_of_one_model_do_not_disturb_each_other(net):
    with probekit.record(net, "stem") as outer:
        with probekit.record(net, "stem") as inner:
            net(IMAGE)
        net(IMAGE)
    assert len(inner.calls("stem")) == 1
    assert len(outer.calls("stem")) == 2
    assert by_hand.n_hooks(net) == 0


def test_logits_are_the_same_bits_while_it_listens():
    model, inputs = tiny.build("gemma2"), tiny.batch()
    with torch.no_grad():
        expected: Any = model(**inputs).logits
        with probekit.record(model, ["model.layers.**", "lm_head/input"]):
            assert torch.equal(model(**inputs).logits, expected)


def test_a_mapping_gives_each_glob_its_kinds():
    model = tiny.build("gpt2")
    with probekit.record(model, {"**.attn": ["pattern", "z"], "lm_head": "output"}) as rec:
        model(**tiny.batch())
    assert len(rec) == 7
    assert rec["transformer.h.0.attn/pattern"].shape[1] == 4
    assert "transformer.h.2.attn/z (1x)" in repr(rec)


def test_what_ran_more_than_once_shows_in_its_repr():
    model = tiny.build("gpt2")
    with probekit.record(model, "lm_head") as rec:
        assert "nothing yet" in repr(rec)
        model(**tiny.batch())
        model(**tiny.batch())
    assert repr(rec) == "<Recording of 1 site: lm_head/output (2x)>"


def test_select_goes_by_portable_name():
    model = tiny.build("gpt2")
    with probekit.record(model, ["resid_post", "logits"]) as rec:
        model(**tiny.batch())
    assert rec.select("resid_post", layer=-1) is rec["transformer.h.2"]
    assert rec.select("logits") is rec["lm_head"]
    with pytest.raises(CaptureError, match="layer 3 is not there; there are 0 to 2"):
        rec.select("resid_post", layer=3)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (
            lambda rec: rec.select("resid_post"),
            "resid_post is in layers 0 to 2; say which",
        ),
        (
            lambda rec: rec["resid_post"],
            r'name one: transformer.*; or by layer: rec.select\("resid_post", layer=...\)',
        ),
        (
            lambda rec: rec.select("resid_pre", layer=0),
            r"resid_pre of layer 0 \(transformer.h.0/input\) was not asked for; recorded: trans",
        ),
        (
            lambda rec: rec.select("logits"),
            r"logits \(lm_head/output\) was not asked for; recorded",
        ),
        (lambda rec: rec.select("logits", layer=1), "there are no layers: leave layer= out"),
        (lambda rec: rec.select("resid_post", layer="a"), "layer is 'a' .text.; expected a whole"),
        (
            lambda rec: rec["transformer.h.0"],
            r"not run yet: use it as `with probekit.record\(...\) as",
        ),
    ],
)
def test_what_is_read_wrongly_is_said_as_it_was_asked_for(ask, said):
    rec = probekit.record(tiny.build("gpt2"), "resid_post")
    with pytest.raises(ProbekitError, match=said):
        ask(rec)


def test_a_lone_module_is_its_own_root():
    linear = torch.nn.Linear(4, 4)
    with probekit.record(linear, "*") as rec:
        wanted = linear(torch.ones(2, 4))
    assert rec["*"] is wanted


def test_a_module_under_two_names_is_found_by_either():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Linear(3, 3)
            self.two = self.one

        def forward(self, x):
            return self.two(x)

    model = Twice()
    for name in ("one", "two"):
        with probekit.record(model, name) as rec:
            wanted = model(torch.ones(1, 3))
        assert rec[name] is wanted


def test_portable_names_find_the_model_inside_of_what_wraps_it():
    model = tiny.build("gpt2")
    asked = ["resid_post", "logits", "z"]
    with probekit.record(model, asked) as plain:
        model(**tiny.batch())
    peft_like = nn.ModuleDict({"base_model": nn.ModuleDict({"model": model})})
    for wrapped, before in ((nn.DataParallel(model), "module."), (peft_like, "base_model.model.")):
        with probekit.record(wrapped, asked) as rec:
            model(**tiny.batch())
        assert list(rec) == [before + name for name in plain]
        for name in plain:
            assert torch.equal(rec[before + name], plain[name])
        assert rec.select("resid_post", layer=1) is rec[f"{before}transformer.h.1"]


def test_a_model_without_its_head_has_its_names_but_for_the_logits():
    model = tiny.build("gpt2").transformer
    with probekit.record(model, ["resid_post", "ln_final"]) as rec:
        model(**tiny.batch())
    assert list(rec) == [*(f"h.{n}/output" for n in range(3)), "ln_f/output"]
    with pytest.raises(PlanError, match="'logits' does not exist on this GPT2Model: it is the mod"):
        probekit.record(model, "logits")


def test_the_z_of_a_wrapped_model_is_what_its_projection_reads():
    config = AutoConfig.for_model("bitnet", **tiny.LLAMA, head_dim=8)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    for around in (model, nn.DataParallel(model), model.model):
        with probekit.record(around, "**.self_attn/z") as rec:
            model(input_ids=ids)
        for layer, block in enumerate(model.model.layers):
            name = next(n for n in rec if f"layers.{layer}.self_attn" in n)
            seen = []
            hook = block.self_attn.o_proj.register_forward_pre_hook(
                lambda m, a, s=seen: s.append(a[0])
            )
            model(input_ids=ids)
            hook.remove()
            assert torch.allclose(rec[name].flatten(-2), seen[0], atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's, at the first compile
def test_a_model_that_is_compiled_as_a_whole_is_refused():
    model = torch.compile(tiny.build("gpt2"))
    with pytest.raises(PlanError, match="compiled as a whole, which hides its modules"):
        probekit.record(model, "resid_post")


@pytest.mark.parametrize(
    ("family", "glob", "sizes"),
    [
        ("falcon", "**.mlp", {"num_hidden_layers": 2, "num_attention_heads": 4}),
        ("xlm", "**.layer_norm2.*", {"n_layers": 2, "n_heads": 4, "emb_dim": 32, "n_words": 101}),
        ("ctrl", "**.w", {"n_layer": 2, "n_head": 4, "n_embd": 32, "dff": 64}),
        ("rwkv", "**.time_shift", {"num_hidden_layers": 2, "attention_hidden_size": 32}),
    ],
)
def test_a_tensor_that_is_changed_later_reads_as_the_module_gave_it(family, glob, sizes):
    config = AutoConfig.for_model(family, vocab_size=101, hidden_size=32, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    wanted: dict[str, Tensor] = {}

    def keeps(path):
        def hook(module, args, output):  # gives nothing back, or that would be the output
            wanted[path] = output.detach().clone()

        return hook

    with torch.enable_grad(), probekit.record(model, glob) as rec:
        paths = [name.removesuffix("/output") for name in rec._sites]
        handles = [model.get_submodule(p).register_forward_hook(keeps(p)) for p in paths]
        loss = model(ids).logits.sum()
    if family != "rwkv":  # whose own code cannot go backward on a CPU
        loss.backward()
    for handle in handles:
        handle.remove()
    n_changed = 0
    for name in rec:
        assert torch.equal(rec[name], wanted[name.removesuffix("/output")])
        n_changed += rec.live(name)[0] is not rec[name]
    assert n_changed


def test_nothing_is_copied_where_nothing_is_changed():
    model = tiny.build("gpt2")
    with probekit.record(model, "**.mlp") as rec:
        model(**tiny.batch())
    assert all(rec.live(name) == (rec[name],) for name in rec)
