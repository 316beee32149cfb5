"""The lens on the page: the model's own layers, norm and head, by hand; and why there is none."""

import by_hand
import numpy as np
import pytest
import torch
from report_pages import ReadPage
from transformers import AutoModelForCausalLM

import probekit
from probekit.report import lensing

PROBES = ({"sites": "resid_post"}, {"modules": "lm_head", "record": ["top_k"]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lens")
    by_hand.save_tiny(folder / "model", "gpt2")
    probekit.run(by_hand.config(folder / "model", folder / "t", probes=list(PROBES)))
    last = [{"sites": "resid_post", "positions": "last"}]
    probekit.run(by_hand.config(folder / "model", folder / "last", probes=last))
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """What each layer says after each token of each example: probabilities [layer, token, id]."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    found = []
    for ids in by_hand.EXAMPLES:
        kept = []
        handles = [
            block.register_forward_hook(lambda _, args, output, kept=kept: kept.append(output))
            for block in model.transformer.h
        ]
        with torch.no_grad():
            model(input_ids=torch.tensor([ids]))
            streams = torch.stack([k[0] if isinstance(k, tuple) else k for k in kept])[:, 0]
            logits = model.lm_head(model.transformer.ln_f(streams))
        for handle in handles:
            handle.remove()
        found.append(logits.double().softmax(-1).numpy())
    return found


def page_of(folder, name, tmp_path, **options):
    return ReadPage(probekit.open(folder / name).report(tmp_path / "r.html", **options).path)


def test_each_layer_says_what_the_models_own_head_makes_of_it(folder, expected, tmp_path):
    page = page_of(folder, "t", tmp_path, examples=[1, 4])
    assert [e["lens"] for e in page.start["examples"]] == [True, True]
    for number in (1, 4):
        found, probabilities = page.json(f"{number}-lens"), expected[number]
        np.testing.assert_allclose(
            found["probability"], -np.sort(-probabilities)[..., :3], rtol=1e-3
        )
        np.testing.assert_allclose(
            found["entropy"], -(probabilities * np.log(probabilities)).sum(-1), rtol=2e-3
        )
        best = probabilities.argmax(-1)
        trace = probekit.open(folder / "t")
        said = [[found["words"][token[0]] for token in layer] for layer in found["said"]]
        assert said == [[trace.token_text(int(i)) for i in layer] for layer in best]


def test_where_each_example_has_one_row_examples_are_columns(folder, expected, tmp_path):
    page = page_of(folder, "last", tmp_path, examples=1)
    assert page.start["lens"] == {"why": None, "by_example": True}
    found = page.json("lens")
    assert found["examples"] == list(range(len(expected)))
    last = np.stack([one[:, -1].max(-1) for one in expected], axis=1)
    np.testing.assert_allclose(np.array(found["probability"])[..., 0], last, rtol=1e-3)
    assert "-lens" not in " ".join(page.blocks)


def test_long_waits_are_cut_short_and_it_says_so(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(lensing, "_MOST_SUMS", 1)
    written = probekit.open(folder / "t").report(tmp_path / "r.html")
    assert "the lens of 5 examples more: it takes long; see probekit.lens()" in written.left_out
    lenses = [e["lens"] for e in ReadPage(written.path).start["examples"]]
    assert lenses == [True] + [False] * 5


def test_a_lens_that_was_not_asked_for_is_told(folder, tmp_path):
    page = page_of(folder, "t", tmp_path, lens=False)
    assert "There is no lens here: it was not asked for (--no-lens)" in page.text


def copied(folder, tmp_path, **attributes):
    """The trace as one file, with other words about the model that made it."""
    import h5py

    probekit.open(folder / "t").merge(tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        for name, value in attributes.items():
            file.attrs[name] = value
    return probekit.open(tmp_path / "t.h5")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("model: {name: nobody/has-this}\n", "the weights of nobody/has-this are not on this"),
        ("model: {name: ./nowhere}\n", "there is no folder"),
        ("model: {name: sample:tiny-gpt2, trust_remote_code: true}\n", "runs code of its own"),
        ("model: {name: sample:tiny-gpt2, weights: random}\n", "a whole model would be drawn"),
        ("model: [\n", "the config in the trace is no YAML"),
        ("- 1\n", "the config in the trace holds no keys"),
        ("model: {name: <script>alert(1)</script>}\n", "<script>alert(1)</script>"),
        ("model: {name: sample:tiny-gpt2}\n", "this is not the model that the trace was made"),
    ],
)
def test_a_model_that_is_not_to_be_had_is_told_in_one_line(folder, tmp_path, config, why):
    rest = "inputs: {random: {examples: 1, max_tokens: 8}}\nprobes: [{sites: resid_post}]\n"
    trace = copied(folder, tmp_path, config=config if config[0] == "-" else config + rest)
    page = ReadPage(trace.report(tmp_path / "r.html").path)
    line = page.text.partition("There is no lens here: ")[2][:400]
    assert why in line
    assert "alert(1)" not in page.code[0]


def test_whatever_loading_brings_is_told(folder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no room on this device\nand more")

    from probekit.analysis.logitlens import computing

    monkeypatch.setattr(computing, "load_output_head", fail)
    page = page_of(folder, "t", tmp_path)
    assert "There is no lens here: RuntimeError: no room on this device" in page.text
    assert "and more" not in page.text
