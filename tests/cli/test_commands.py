"""The command line: what it prints, where, and how it ends."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import by_hand
import h5py
import pytest
import yaml
from by_hand import N_TOKENS

import probekit
from probekit.cli import commands as cli
from probekit.config.loading import json_schema
from probekit.store.format import write_record

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("probekit")
MLP = [{"modules": "transformer.h.*.mlp.act"}]


@dataclass
class Ended:
    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def probekit_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process, as the program's `main` does."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["probekit", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Ended(code=int(ended.value.code or 0), out=out, err=err)

    return run


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return by_hand.save_tiny(tmp_path_factory.mktemp("gpt2"), "gpt2")


def write(file: Path, config: dict[str, Any]) -> Path:
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.fixture
def config(gpt2: Path, tmp_path: Path) -> Path:
    made = by_hand.config(gpt2, tmp_path / "trace", probes=MLP, execution_order=True)
    return write(tmp_path / "a.yaml", made)


@pytest.fixture(scope="module")
def finished(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `config`, to be read."""
    folder = tmp_path_factory.mktemp("finished") / "trace"
    probekit.run(by_hand.config(gpt2, folder, probes=MLP, execution_order=True))
    return folder


@pytest.fixture
def recorded(finished: Path, tmp_path: Path) -> Path:
    """Such a folder in `tmp_path`, to be changed, as after `probekit run`."""
    return shutil.copytree(finished, tmp_path / "trace")


# --- run


def test_run_records_and_says_so(probekit_, config, tmp_path):
    ended = probekit_("run", config)
    assert ended.code == 0
    assert ended.out.splitlines() == [
        f"{tmp_path}/trace: 6 examples, {N_TOKENS} tokens, 3 sites",
        f"look at it: probekit report {tmp_path}/trace -o report.html",
        f'in Python:  trace = probekit.open("{tmp_path}/trace")',
    ]
    assert by_hand.site_names(tmp_path / "trace" / "trace.h5") == {
        f"transformer.h.{n}.mlp.act/output" for n in range(3)
    }


def test_progress_without_a_terminal_is_plain_lines_on_stderr(probekit_, config):
    err = probekit_("run", config).err
    assert "\x1b" not in err and "\r" not in err
    first, *_, last = err.splitlines()
    assert first.startswith("2/6 examples, ")
    assert last.startswith("6/6 examples, ") and last.endswith(" 0 s left")
    assert " tokens/s, " in last and f" {3 * N_TOKENS * 288 / 1024:.1f} KiB" in last


def test_quiet_says_nothing(probekit_, config, tmp_path):
    ended = probekit_("run", config, "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert (tmp_path / "trace" / "trace.h5").exists()


@pytest.mark.filterwarnings("always")
def test_quiet_leaves_warnings_and_notes_out_and_not_errors(probekit_, gpt2, tmp_path, monkeypatch):
    from probekit.capture import running as capture

    def warns(counts: object) -> None:
        warnings.warn("3 values are odd", probekit.ProbekitWarning, stacklevel=1)
        warnings.warn("soon to go", FutureWarning, stacklevel=1)

    monkeypatch.setattr(capture, "_warn_of_counts", warns)
    folder = tmp_path / "a trace"
    made = by_hand.config(gpt2, folder, probes=MLP) | {"inputs": {"texts": ["a b c d e f"]}}
    file = write(tmp_path / "a.yaml", made)
    cut = ("--set", "inputs.max_tokens=3")
    ended = probekit_("run", file, "-q", *cut)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    for line in (("verify", folder), ("report", folder, "-o", tmp_path / "a.html")):
        ended = probekit_(*line, "--quiet")
        assert (ended.code, ended.out, ended.err) == (0, "", "")
    told = probekit_("run", file, "--overwrite", *cut)
    assert "warning: 3 values are odd" in told.err and "soon to go" in told.err
    assert "note: 1 of 1 text is longer than 3 tokens" in told.err
    assert f"probekit report '{folder}' -o" in told.out
    (folder / "trace.h5").write_bytes(b"")
    ended = probekit_("verify", folder, "-q")
    assert ended.code == 1 and "trace.h5" in ended.out


def test_notes_come_before_the_work(probekit_, config):
    err = probekit_("run", config, "--set", "inputs.max_tokens=9").err
    assert err.startswith("note: 2 of 6 texts are longer than 9 tokens and are cut there")


def test_ctrl_c_behind_the_last_batch_says_that_the_run_finishes(
    probekit_, config, tmp_path, monkeypatch
):
    from probekit.capture import running as capture

    index = capture.build_index

    def interrupted(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return index(*given)

    monkeypatch.setattr(capture, "build_index", interrupted)
    ran = probekit_("run", config)
    assert ran.code == 0
    assert "the last batch is done: finishing; once more to stop at once" in ran.err
    assert "stop" not in ran.err.replace("once more to stop at once", "")
    assert probekit_("verify", tmp_path / "trace").code == 0


def test_set_changes_settings_in_order(probekit_, config, tmp_path):
    ended = probekit_(
        *("run", config, "-q", "--set", f"store.path={tmp_path}/other"),
        *("--set", "probes[0].layers=1", "--set", "store.dtype=float16"),
    )
    assert (ended.code, ended.err) == (0, "")
    trace = probekit.open(tmp_path / "other")
    assert trace.site_names == ("transformer.h.1.mlp.act/output",)
    assert trace["transformer.h.1.mlp.act"].dtype == "float16"
    assert not (tmp_path / "trace").exists()


def test_a_finished_run_is_opened_another_refused_and_overwrite_begins_anew(probekit_, config):
    assert probekit_("run", config, "-q").code == 0
    again = probekit_("run", config)
    assert (again.code, again.err) == (0, "this run is complete already; nothing to do\n")
    refused = probekit_("run", config, "--set", "seed=1")
    assert refused.code == 2
    assert refused.err.startswith("error: ") and "--overwrite to begin anew" in refused.err
    assert probekit_("run", config, "--set", "seed=1", "--overwrite").code == 0


# --- plan


def test_plan_shows_every_site_its_shape_and_sizes(probekit_, config, gpt2):
    ended = probekit_("plan", config)
    assert (ended.code, ended.err) == (0, "")
    said = " ".join(ended.out.split())
    assert f"{gpt2}: GPT2LMHeadModel, 32,536 parameters, float32" in said
    assert f"6 examples, {N_TOKENS} tokens, 1 shard" in said
    row = f"transformer.h.{{0..2}}.mlp.act/output 3 token={N_TOKENS}, d_mlp=72 float32 288 B"
    assert f"{row} {3 * N_TOKENS * 288 / 1024:.1f} KiB" in said
    assert f"total {3 * N_TOKENS * 288 / 1024:.1f} KiB (864 B a token)" in said
    assert "free at" in said


def test_text_is_printed_as_it_is(probekit_, tmp_path):
    # Brackets are markup to rich: "[batch, 4, position, position]" must not vanish.
    model = by_hand.save_tiny(tmp_path / "[model]", "gpt_neo")
    probes = [{"modules": "transformer.h.0.attn.attention.*"}]
    store = tmp_path / "[trace] :smile:"
    file = write(tmp_path / "a.yaml", by_hand.config(model, store, probes=probes))
    ended = probekit_("plan", file)
    assert (ended.code, ended.err) == (0, "")
    assert f"{model}: GPTNeoForCausalLM" in ended.out
    assert f"free at {store}" in ended.out
    assert "a.yaml:" in ended.out and "probes[0].modules: left out" in ended.out
    assert "attn_dropout/output is [batch, 4, position, position], with two" in ended.out
    assert str(store) in probekit_("run", file).out
    assert f"{store}/trace.h5" in probekit_("info", store).out


def test_plan_as_json_is_the_plan(probekit_, config):
    ended = probekit_("plan", config, "--json")
    assert (ended.code, ended.err) == (0, "")
    found, expected = json.loads(ended.out), probekit.plan(config).to_json()
    assert found.pop("free_bytes") > 0
    del expected["free_bytes"]
    assert found == expected


def test_plan_writes_nothing(probekit_, config, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert probekit_("plan", config).code == 0
    assert sorted(tmp_path.rglob("*")) == before


# --- modules


def test_modules_lists_a_models_modules(probekit_, gpt2):
    ended = probekit_("modules", gpt2, "--match", "transformer.h.0.mlp.**")
    assert (ended.code, ended.err) == (0, "")
    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[0] == ["module", "class", "calls", "inputs", "outputs", "portable"]
    assert [line[0].rpartition(".")[2] for line in lines[1:-1]] == [
        *("mlp", "c_fc", "act", "c_proj", "dropout"),
    ]
    n_parameters = 72 * 32 + 72 + 32 * 72 + 32
    assert ended.out.splitlines()[-1] == f"{n_parameters:,} parameters in 2 of 5 modules"
    assert "[batch, position, 72]" in ended.out
    assert "mlp_post (output)" in ended.out


def test_families_says_what_a_family_has(probekit_):
    ended = probekit_("families", "mistral", "--json")
    (row,) = json.loads(ended.out)
    assert (row["family"], row["how"], ended.err) == ("mistral", "derived", "")
    assert row["names"]["resid_mid"]["layers"] == [0, 1, 2, 3]
    assert "| mistral | derived |" in probekit_("families", "mistral", "--markdown").out
    assert probekit_("families", "mistrall").code == 2


def test_modules_shows_names_that_are_derived(probekit_, tmp_path):
    folder = by_hand.save_tiny(tmp_path / "model", "mistral")
    ended = probekit_("modules", folder, "--match", "model.layers.0.*")
    assert "mlp_in (input), mlp_out (output)" in ended.out


def test_modules_that_never_run_say_so(probekit_, gpt2):
    ended = probekit_("modules", gpt2, "--match", "**.attn_dropout")
    assert ended.out.count("never") == 3


def test_modules_as_json_keeps_its_keys(probekit_, gpt2, config):
    rows = json.loads(probekit_("modules", gpt2, "--json").out)
    assert len(rows) == 7 + 3 * 13
    for row in rows:
        assert set(row) == {
            *("path", "class", "calls", "inputs", "outputs", "portable"),
            *("n_parameters", "parameters", "buffers", "settings"),
        }
        for slot in (*row["inputs"], *row["outputs"]):
            assert set(slot) == {"index", "key", "axes", "dtype"}
        for tensor in row["parameters"]:
            assert set(tensor) == {"name", "shape", "dtype", "n_values", "shared_with"}
    assert json.loads(probekit_("modules", config, "--json").out) == rows
    assert json.loads(probekit_("modules", config, "--json", "--long").out) == rows
    fewer = probekit_("modules", config, "--json", "--set", "model.overrides.n_layer=1")
    assert len(json.loads(fewer.out)) == 7 + 13


def test_modules_as_json_says_what_a_module_is_made_of(probekit_, gpt2):
    rows = json.loads(probekit_("modules", gpt2, "--json").out)
    by_path = {row["path"]: row for row in rows}
    size = {"dtype": "float32", "n_values": 101 * 32, "shape": [101, 32]}
    tied = {"name": "weight", "shared_with": ["lm_head.weight"]}
    assert by_path["transformer.wte"]["parameters"] == [size | tied]
    assert by_path["transformer.h.1.ln_2"]["n_parameters"] == 32 + 32
    assert by_path["transformer.h.1"]["n_parameters"] == 0, "its children's are not its own"
    assert by_path["transformer.h.1.ln_2"]["settings"]["eps"] == 1e-5
    assert by_path["lm_head"]["settings"]["bias"] is False


def test_modules_in_all_have_the_parameters_of_the_model(probekit_, gpt2):
    for how in ((), ("--long",)):
        said = probekit_("modules", gpt2, *how).out.splitlines()[-1]
        assert said == "32,536 parameters (shared ones once) in 22 of 46 modules"
    said = probekit_("modules", gpt2, "--match", "lm_head").out.splitlines()[-1]
    assert said == "3,232 parameters in 1 of 1 module"


def test_modules_long_says_what_each_is_made_of(probekit_, gpt2):
    ended = probekit_("modules", gpt2, "--long", "--match", "transformer.h.1.{attn,mlp.c_fc}")
    assert (ended.code, ended.err) == (0, "")
    lines = [line.rstrip() for line in ended.out.splitlines()]
    assert lines[0] == "transformer.h.1.attn  GPT2Attention, 1 call"
    assert any("layer_idx=1" in line and "is_causal=true" in line for line in lines)
    at = lines.index("transformer.h.1.mlp.c_fc  Conv1D, 1 call")
    assert lines[at:] == [
        "transformer.h.1.mlp.c_fc  Conv1D, 1 call",
        "  inputs      x=[batch, position, 32]",
        "  outputs     [batch, position, 72]",
        "  parameters  2,376 float32 = weight [32, 72] + bias [72]",
        "  settings    nf=72, nx=32, bias=true",
        "2,376 parameters in 1 of 2 modules",
    ]


def test_modules_long_shows_layers_that_are_alike_once(probekit_, tmp_path):
    folder = by_hand.save_tiny(tmp_path / "gemma", "gemma3_text")
    ended = probekit_("modules", folder, "--long", "--match", "model.{embed_tokens,layers.**}")
    heads = [line for line in ended.out.splitlines() if not line.startswith(" ")]
    assert heads[0] == "model.embed_tokens  Gemma3TextScaledWordEmbedding, 1 call"
    assert heads[1] == "model.layers.{0..2}  Gemma3DecoderLayer, 1 call; 3 alike"
    # Layer 1 sees all, the others a window.
    assert "model.layers.{0,2}.self_attn  Gemma3Attention, 1 call; 2 alike" in heads
    assert "model.layers.1.self_attn  Gemma3Attention, 1 call" in heads
    assert "model.layers.{0..2}.mlp.down_proj  Linear, 1 call; 3 alike" in heads
    assert "weight is also lm_head.weight" in ended.out
    assert "sliding_window=8" in ended.out and "sliding_window=null" in ended.out


# --- info


def test_info_says_what_is_in_a_trace_and_how_it_was_made(probekit_, recorded, gpt2):
    ended = probekit_("info", recorded)
    assert (ended.code, ended.err) == (0, "")
    said = " ".join(ended.out.split())
    assert f"{gpt2} (GPT2LMHeadModel, 32,536 parameters, pretrained weights) in float32" in said
    assert f"6 examples, {N_TOKENS} tokens, 3 sites, {3 * N_TOKENS * 288 / 1024:.1f} KiB" in said
    assert f"transformer.h.{{0..2}}.mlp.act/output 3 token={N_TOKENS}, d_mlp=72 float32" in said
    assert "execution order:" in said and "1 distinct order in 3 forward passes" in said


def test_info_as_json_keeps_its_keys(probekit_, recorded):
    found = json.loads(probekit_("info", recorded, "--json").out)
    assert {
        *("path", "n_examples", "n_tokens", "n_sites", "n_bytes", "sites", "execution"),
        "provenance",
    } <= set(found)
    assert (found["n_examples"], found["n_tokens"], found["n_sites"]) == (6, N_TOKENS, 3)
    assert found["n_bytes"] == 3 * N_TOKENS * 288
    assert {"name", "shape", "axes", "dtype", "bytes", "rows", "layer", "portable"} <= set(
        found["sites"][0]
    )
    assert found["execution"]["n_forwards"] == 3
    assert found["provenance"]["model_class"] == "GPT2LMHeadModel"


def test_info_says_when_where_and_by_which_command_each_session_worked(
    probekit_, config, tmp_path, monkeypatch
):
    def cut_short(*given: Any) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "trace"
    with monkeypatch.context() as patched:
        patched.setattr("probekit.capture.running.build_index", cut_short)
        patched.setattr(
            sys, "argv", ["probekit", "run", "a b.yaml", "--set", "x.api_key=hf_Abcdefg"]
        )
        with pytest.raises(KeyboardInterrupt):
            probekit.run(config, self_check=False)
    assert probekit_("run", config, "-q").code == 0
    (folder / "shards" / "00000.h5").write_bytes(b"")
    assert probekit_("run", config, "-q", "--repair").code == 0
    sessions = json.loads(probekit_("info", folder, "--json").out)["sessions"]
    assert sessions[0]["command"] == "probekit run 'a b.yaml' --set 'x.api_key=***'"
    assert sessions[-1]["command"] == f"probekit run {config} -q --repair"
    assert {s["host"] for s in sessions} == {platform.node()}
    said = probekit_("info", folder).out.splitlines()
    for session in sessions:
        when, where = session["began"], platform.node()
        assert f"made on {where} at {when}: {session['command']}" in said
    assert "hf_Abcdefg" not in (folder / "made.json").read_text()

    old = {"began": "2026-01-02T03:04:05+00:00", "process": 7, "command": 3}
    write_record(folder / "made.json", {"sessions": [old]})  # as a run of before has it, but for 3
    assert "made at 2026-01-02T03:04:05+00:00" in probekit_("info", folder).out.splitlines()


def test_info_of_an_unfinished_run_says_who_worked_on_it_last(probekit_, config, tmp_path):
    folder = tmp_path / "trace"
    probekit_("run", config, "-q")
    (folder / "trace.h5").unlink()
    ended = probekit_("info", folder)
    assert ended.code == 2
    first, last = ended.err.splitlines()
    assert first.startswith(f"error: {folder}: the run has no index: 1 of 1 shard is sealed")
    began = json.loads((folder / "made.json").read_text())["sessions"][-1]["began"]
    where = f"on {platform.node()} at {began}"
    assert last == f"its last session was begun {where}: probekit run {config} -q"
    write_record(folder / "made.json", {"sessions": [{"began": 3, "host": "\x1b[2J"}]})
    assert probekit_("info", folder).err.endswith("session was begun on \\x1b[2J\n")
    (folder / "made.json").unlink()
    assert len(probekit_("info", folder).err.splitlines()) == 1


def test_info_opens_a_lone_shard(probekit_, recorded, tmp_path):
    (shard,) = by_hand.shard_files(recorded)
    alone = shutil.copy(shard, tmp_path / "alone.h5")
    assert f"{N_TOKENS} tokens" in probekit_("info", alone).out


# --- report


def test_report_writes_a_page_and_says_how_large_it_is(probekit_, recorded, tmp_path):
    page = tmp_path / "page.html"
    ended = probekit_("report", recorded, "-o", page, "--neurons", 2)
    assert ended.code == 0
    kib = page.stat().st_size / 1024
    assert ended.out == f"{page}: 6 examples, {kib:.1f} KiB\n"
    assert ended.err == ""
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_report_says_what_it_leaves_out(probekit_, recorded, tmp_path):
    trace, page = recorded, tmp_path / "page.html"
    ended = probekit_("report", trace, "-o", page, "--example", 3, "--example", 1)
    assert ended.out.startswith(f"{page}: 2 examples")
    assert ended.err == "left out: 4 of 6 examples: listed, but not in full (--examples)\n"
    assert probekit_("report", trace, "-o", page, "--example", 9).err == (
        f"error: {trace}/trace.h5: example 9 is out of range: there are 6 (0..5)\n"
    )


def test_sizes_are_written_as_in_a_config(probekit_, recorded, tmp_path):
    trace, page = recorded, tmp_path / "page.html"
    assert probekit_("report", trace, "-o", page, "--max-bytes", "2MB").code == 0
    wrong = probekit_("report", trace, "-o", page, "--max-bytes", "2 bananas")
    assert wrong.code == 2
    assert "512MiB" in wrong.err


# --- merge


def test_merge_writes_one_file_and_says_what_is_in_it(probekit_, recorded, tmp_path):
    ended = probekit_("merge", recorded, tmp_path / "one.h5")
    size = (tmp_path / "one.h5").stat().st_size / 1024
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        f"{tmp_path}/one.h5: 6 examples, {N_TOKENS} tokens, 3 sites, {size:.1f} KiB\n"
    )
    assert probekit_("info", tmp_path / "one.h5").code == 0
    index = recorded / "trace.h5"
    for name in by_hand.site_names(index):
        assert (by_hand.numbers(tmp_path / "one.h5", name) == by_hand.numbers(index, name)).all()


def test_merge_takes_some_sites_and_widens_them(probekit_, config, tmp_path):
    probekit_("run", config, "-q", "--set", "model.dtype=bfloat16")
    given = ("--dtype", "float32", "--sites", "transformer.h.1.mlp.act", "-q")
    ended = probekit_("merge", tmp_path / "trace", tmp_path / "one.h5", *given)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    trace = probekit.open(tmp_path / "one.h5")
    assert [trace[name].dtype for name in trace] == ["float32"]


def test_merge_keeps_a_file_that_is_there_unless_told(probekit_, recorded, tmp_path):
    command = ("merge", recorded, tmp_path / "one.h5")
    probekit_(*command)
    ended = probekit_(*command)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        f"error: {tmp_path}/one.h5: exists; give another name, or overwrite it "
        "(--overwrite; in Python overwrite=True)\n"
    )
    assert probekit_(*command, "--overwrite").code == 0


def test_merge_says_what_was_not_recorded(probekit_, recorded, tmp_path):
    ended = probekit_("merge", recorded, tmp_path / "one.h5", "--sites", "h.0")
    assert ended.code == 2
    assert "h.0 was not recorded; the nearest: transformer.h.*.mlp.act; recorded: " in ended.err
    assert not (tmp_path / "one.h5").exists()


def test_a_long_merge_says_how_far_it_is(capsys, monkeypatch):
    from probekit.cli import terminal
    from probekit.handover.newfile import Copied

    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with terminal.copying(quiet=False) as watch:
        for seconds, n_bytes in ((1.0, 2**20), (6.0, 3 * 2**20), (7.0, 4 * 2**20)):
            watch(Copied(n_bytes=n_bytes, total_bytes=2**23, seconds=seconds))
    assert capsys.readouterr().err == "3.0 MiB of 8.0 MiB, 512.0 KiB/s\n"


# --- verify and repair


def damage(folder: Path) -> None:
    """Change a byte of a row of the first shard."""
    (shard, *_) = by_hand.shard_files(folder)
    with h5py.File(shard) as file:
        at = file["sites/transformer.h.1.mlp.act/output"].id.get_offset()
    with shard.open("r+b") as raw:
        raw.seek(at)
        (byte,) = raw.read(1)
        raw.seek(at)
        raw.write(bytes([byte ^ 1]))


def test_verify_of_a_whole_trace_says_so(probekit_, recorded):
    ended = probekit_("verify", recorded)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"{recorded}: whole: 1 shard, ")
    assert ended.out.endswith("every byte as it was written\n")


def test_verify_names_the_damage_and_ends_with_1(probekit_, recorded):
    damage(recorded)
    (recorded / "trace.json").unlink()
    ended = probekit_("verify", recorded)
    assert ended.code == 1
    shard, index, advice = ended.out.splitlines()
    assert shard == (
        "shards/00000.h5: transformer.h.1.mlp.act/output: its rows do not have their checksum"
    )
    assert index == "trace.json: is missing"
    assert advice.startswith(f"{recorded}: DAMAGED: shard 0 and the index")
    assert "`probekit run CONFIG --repair`" in advice


def test_verify_as_json_keeps_its_keys(probekit_, recorded):
    assert json.loads(probekit_("verify", recorded, "--json").out)["whole"] is True
    damage(recorded)
    ended = probekit_("verify", recorded, "--json")
    found = json.loads(ended.out)
    assert (ended.code, ended.err) == (1, "")
    assert set(found) == {
        *("path", "whole", "n_shards", "n_unsealed", "n_bytes", "damaged_shards", "damages"),
    }
    assert (found["whole"], found["damaged_shards"]) == (False, [0])
    assert [set(d) for d in found["damages"]] == [{"file", "shard", "site", "what"}]


def test_verify_of_an_unfinished_run_says_how_far_it_is(probekit_, config, tmp_path):
    probekit_("run", config, "-q", "--set", "store.shard_bytes=1")
    folder = tmp_path / "trace"
    for name in ("trace.h5", "trace.json", "shards/00005.h5", "shards/00005.json"):
        (folder / name).unlink()
    (folder / "shards/00005.made.json").unlink(missing_ok=True)
    ended = probekit_("verify", folder)
    assert ended.code == 3
    assert ended.out == (
        f"{folder}: not finished: 1 of 6 shards is still to be written, the others are whole; "
        "the same `probekit run` goes on\n"
    )


def test_many_damages_are_cut_short(probekit_, config, tmp_path):
    probekit_("run", config, "-q", "--set", "store.shard_bytes=1")
    for shard in by_hand.shard_files(tmp_path / "trace"):
        shard.unlink()
        shard.with_suffix(".json").unlink()
    for number in range(6, 40):
        (tmp_path / "trace" / "shards" / f"000{number:02d}.h5").write_text("odd")
    lines = probekit_("verify", tmp_path / "trace").out.splitlines()
    assert lines[20] == "and 26 more; --json lists all"
    assert len(lines) == 22


def test_repair_computes_what_is_damaged_and_says_what_it_was(probekit_, recorded, config):
    whole = by_hand.bits_of(recorded, "transformer.h.1.mlp.act/output")
    damage(recorded)
    ended = probekit_("run", config, "--repair")
    assert ended.code == 0
    assert ended.err.startswith(
        "note: damaged, and computed again: shards/00000.h5: transformer.h.1.mlp.act/output: its"
    )
    assert by_hand.bits_of(recorded, "transformer.h.1.mlp.act/output") == whole
    assert probekit_("verify", recorded).code == 0


def test_a_damaged_run_is_not_taken_for_a_complete_one(probekit_, recorded, config):
    (shard,) = by_hand.shard_files(recorded)
    shard.write_bytes(shard.read_bytes()[:-1])
    failed(probekit_("run", config), "is damaged: shards/00000.h5: has ", "--repair")


# --- room


def test_a_disk_that_is_too_small_is_told_before_and_refused(probekit_, config, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=9 << 10))
    ended = probekit_("plan", config)
    assert ended.code == 0
    line = config.read_text().splitlines().index(f"  path: {config.parent / 'trace'}") + 1
    assert f"warning: {config}:{line}: store.path: " in ended.out
    assert "and the disk has 9.0 KiB free" in ended.out
    failed(probekit_("run", config), "and the disk has 9.0 KiB free", "--force")
    assert probekit_("run", config, "-q", "--force").code == 0


def test_what_a_library_runs_out_of_is_one_message(probekit_, config, monkeypatch):
    from probekit import models

    def load(*args: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "weights.safetensors")

    monkeypatch.setattr(models, "load_model", load)
    failed(probekit_("run", config), "has run out of something", "Too many open files", "weights")


def test_other_errors_of_the_system_keep_their_traceback(probekit_, config, monkeypatch):
    from probekit import models

    def load(*args: Any) -> Any:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(models, "load_model", load)
    with pytest.raises(OSError, match="Invalid argument"):
        probekit_("run", config)


# --- schema


def test_compare_shows_what_two_traces_have_in_common(probekit_, finished, tmp_path):
    for name in "ab":
        shutil.copytree(finished, tmp_path / name)
    done = probekit_("compare", tmp_path / "a", tmp_path / "b", "--matrix")
    assert done.code == 0
    assert done.out.startswith("A: ")
    assert len([line for line in done.out.splitlines() if line.startswith("mlp_post")]) == 3
    assert "linear CKA at mlp_post: layers of " in done.out
    asked = ("--sites", "transformer.h.1.mlp.act", "--json")
    plain = json.loads(probekit_("compare", tmp_path / "a", tmp_path / "b", *asked).out)
    assert list(plain) == [
        *("a", "b", "a_model", "b_model", "n_examples", "n_tokens", "by_token"),
        *("pairs", "matrices", "notes"),
    ]
    (pair,) = plain["pairs"]
    assert (pair["place"], pair["layer"], pair["relative_difference"]) == ("mlp_post", 1, 0)
    assert plain["matrices"] == []


def test_compare_refuses_other_texts(probekit_, config, tmp_path):
    probekit_("run", config, "--quiet", "--set", f"store.path={tmp_path / 'a'}")
    few = ("--set", "inputs.limit=2")
    probekit_("run", config, "--quiet", "--set", f"store.path={tmp_path / 'b'}", *few)
    done = probekit_("compare", tmp_path / "a", tmp_path / "b")
    assert (done.code, done.out) == (2, "")
    assert "has 6 examples and" in done.err


def test_schema_is_the_one_beside_the_configs(probekit_):
    ended = probekit_("schema")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (ROOT / "configs" / "probe.schema.json").read_text(encoding="utf-8")
    assert json.loads(ended.out) == json_schema()


# --- errors: one message on stderr, exit code 2, no traceback


def failed(ended: Ended, *said: str) -> None:
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("error: ")
    assert "Traceback" not in ended.err
    for part in said:
        assert part in ended.err, ended.err


MISTAKES = """\
model:
  name: gpt2
  dtpye: float32
inputs:
  texts: ["1 2 3"]
probes:
  - modules: transformer.h.0
    layers: first
store:
  path: t
  shard_bytes: lots
"""


@pytest.mark.parametrize("command", ["run", "plan", "modules"])
def test_a_config_with_three_mistakes_reports_all_three_with_their_lines(
    probekit_, tmp_path, command
):
    (tmp_path / "a.yaml").write_text(MISTAKES)
    ended = probekit_(command, tmp_path / "a.yaml")
    failed(ended)
    lines = ended.err.removeprefix("error: ").splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{tmp_path}/a.yaml:3: model.dtpye: unknown key; did you mean dtype")
    assert lines[1].startswith(f"{tmp_path}/a.yaml:8: probes[0].layers: given 'first'")
    assert lines[2].startswith(f"{tmp_path}/a.yaml:11: store.shard_bytes: given 'lots'")


def test_a_config_error_is_told_before_torch_is_loaded(tmp_path):
    (tmp_path / "a.yaml").write_text(MISTAKES)
    code = (
        "import sys; from probekit import cli\n"
        "for command in ('run', 'plan'):\n"
        "    sys.argv = ['probekit', command, sys.argv[-1]]\n"
        "    try: cli.main()\n"
        "    except SystemExit as ended: print(ended.code)\n"
        "    print(sorted({'torch', 'transformers'} & set(sys.modules)))\n"
    )
    told = [sys.executable, "-c", code, tmp_path / "a.yaml"]
    ran = subprocess.run(told, capture_output=True, text=True)
    assert ran.stdout == "2\n[]\n" * 2, ran.stderr


def test_errors_of_every_kind_end_alike(probekit_, config, gpt2, tmp_path):
    failed(probekit_("run", tmp_path / "no.yaml"), "no.yaml: no such file")
    failed(probekit_("plan", config, "--set", "model.name"), "--set model.name: expected key=value")
    failed(probekit_("plan", config, "--set", "model.name=./gone"), "--set model.name: there is no")
    failed(probekit_("run", config, "--set", "probes[0].modules=x.y"), "matches no module of GPT2")
    failed(probekit_("modules", gpt2, "--match", "x.y"), "'x.y' matches no module of GPT2LMHead")
    failed(probekit_("modules", "./gone"), "there is no folder")
    failed(probekit_("info", tmp_path), "holds no trace")
    failed(probekit_("verify", tmp_path), "is not a run's folder")
    failed(probekit_("info", tmp_path / "gone.h5"), "there is no such file")
    (tmp_path / "text.h5").write_text("hello")
    failed(probekit_("info", tmp_path / "text.h5"), "text.h5: ", "not whole HDF5")


def test_a_model_that_fails_ends_alike(probekit_, config, monkeypatch):
    from probekit import models

    load = models.load_model

    def broken(*args: Any) -> Any:
        model = load(*args)
        model.transformer.h[0].register_forward_pre_hook(lambda m, a: 1 / 0)
        return model

    monkeypatch.setattr(models, "load_model", broken)
    failed(
        probekit_("run", config, "--no-self-check"),
        "error: the model failed on a batch of [2, 13] [example, token]: ZeroDivisionError",
    )


def test_a_trace_cannot_write_to_the_terminal(probekit_, recorded):
    path = recorded / "trace.h5"
    path.with_suffix(".json").unlink()  # whoever changes a trace leaves no record of how it was
    with h5py.File(path, "r+") as file:
        file.attrs["model_name"] = "\x1b[2Jevil\u202e"
        file.attrs["n_parameters"] = "many"
        file.attrs["generate_cached_s"] = [1, 2]
        file.attrs["self_check_difference"] = "small"
    shown = probekit_("info", path.parent)
    assert shown.code == 0, shown.err
    assert "\\x1b[2Jevil\\u202e (GPT2LMHeadModel, many" in shown.out
    as_json = probekit_("info", path.parent, "--json").out
    assert all(line.isprintable() for line in (*shown.out.splitlines(), *as_json.splitlines()))
    assert json.loads(as_json)["provenance"]["model_name"] == "\x1b[2Jevil\u202e"


def test_wrong_usage_says_how_it_is_used(probekit_):
    for arguments in (["run"], ["fly"], ["plan", "a.yaml", "--fast"]):
        ended = probekit_(*arguments)
        assert ended.code == 2
        assert ended.err.startswith("error: ")
        assert f"see probekit {arguments[0]}".replace(" fly", "") in ended.err
        assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    "command",
    [
        *([], ["run"], ["plan"], ["modules"], ["info"], ["verify"]),
        *(["merge"], ["report"], ["compare"], ["schema"]),
    ],
)
def test_help_is_at_hand(probekit_, command):
    ended = probekit_(*command, "--help")
    assert ended.code == 0
    assert "Usage: probekit" in ended.out


# --- as its own process


def offline(**more: str) -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", **more}


def test_the_program_ends_with_one_message_and_code_2():
    ran = subprocess.run([PROGRAM, "info", "/no/trace"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: /no/trace: ")
    assert len(ran.stderr.splitlines()) == 1


def test_the_program_says_nothing_but_its_own_lines(config):
    ran = subprocess.run([PROGRAM, "run", config], capture_output=True, text=True, env=offline())
    assert ran.returncode == 0
    first, *following = ran.stdout.splitlines()
    assert first.endswith(" 3 sites")
    assert [line[:12] for line in following] == ["look at it: ", "in Python:  "]
    lines = ran.stderr.splitlines()  # on a busy machine, also what takes ten seconds
    assert all(" examples, " in line or line.endswith(" ...") for line in lines), ran.stderr
