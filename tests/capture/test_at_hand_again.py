"""A model in memory, given again: which runs go on with it, to equal bytes, and which do not."""

from __future__ import annotations

import copy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import by_hand
import lent_models as lent
import pytest
import tiny_models as tiny
import torch
from by_hand import EXAMPLES
from lent_models import MANY_SHARDS, MineError, run, shard_bytes

import probekit
from probekit.errors import StoreError


@pytest.fixture
def words(tmp_path: Path) -> Any:
    return lent.tokenizer(tmp_path)


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
import lent_models as lent, probekit
folder = Path(sys.argv[1])
def kill(progress):
    if progress.examples == 3:
        os.kill(os.getpid(), signal.SIGKILL)
config = lent.config(folder / "t", store__shard_bytes=1, probes=[{"modules": "**.mlp"}])
words = lent.tokenizer(folder)
probekit.run(config, model=lent.adapted(), tokenizer=words, on_progress=kill)
"""


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_with_the_same_weights_to_equal_bytes(tmp_path, words):
    tests = Path(__file__).parents[1]
    paths = [str(tests), str(tests / "capture")]
    command = [sys.executable, "-c", KILLED, str(tmp_path), *paths]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    n_sealed = len(by_hand.shard_files(tmp_path / "t"))
    assert 0 < n_sealed < len(EXAMPLES)
    begun = []
    run(
        tmp_path / "t",
        lent.adapted(),
        words,
        on_start=lambda *counts: begun.append(counts),
        **MANY_SHARDS,
    )
    assert begun == [(n_sealed, len(EXAMPLES))]
    run(tmp_path / "whole", lent.adapted(), words, **MANY_SHARDS)
    assert shard_bytes(tmp_path / "t") == shard_bytes(tmp_path / "whole")


def test_a_run_that_was_cut_short_goes_on_to_equal_bytes(tmp_path, words):
    cut(tmp_path / "t", lent.adapted(), words)
    run(tmp_path / "t", lent.adapted().train(), words, **MANY_SHARDS)
    run(tmp_path / "whole", lent.adapted(), words, **MANY_SHARDS)
    assert shard_bytes(tmp_path / "t") == shard_bytes(tmp_path / "whole")


def cut(folder: Path, model: Any, words: Any, **more: Any) -> None:
    """Cut a run short after some shards."""

    def stop(progress: Any) -> None:
        if progress.examples == 3:
            raise MineError

    with pytest.raises(MineError):
        run(folder, model, words, on_progress=stop, **MANY_SHARDS, **more)
    assert by_hand.shard_files(folder)


def other_weights(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight[5, 5] += 1e-3


def other_buffer(model: Any) -> None:
    model.model.rotary_emb.inv_freq[0] += 1e-3


def other_setting(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.scaling = 1.0


def other_config(model: Any) -> None:
    model.config.rms_norm_eps = 1e-3


def other_kernel(model: Any) -> None:
    model.set_attn_implementation("eager")


def other_class(model: Any) -> None:
    model.model.layers[0].mlp.act_fn = torch.nn.GELU()


def other_hook(model: Any) -> None:
    model.model.layers[1].register_forward_pre_hook(lambda module, args: None)


BUILT = "is built or set otherwise, hooks of your own included"


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_weights, "has other weights"),
        (other_buffer, "has other weights"),
        (other_setting, BUILT),
        (other_config, BUILT),
        (other_kernel, BUILT),
        (other_class, BUILT),
        (other_hook, BUILT),
    ],
)
def test_another_model_is_refused_by_what_differs(tmp_path, words, change, said):
    model = lent.replaced(tiny.build("llama"), "up_proj", lent.LoRALinear)
    cut(tmp_path / "t", model, words)
    other = copy.deepcopy(model)
    change(other)
    for repair in (False, True):
        with pytest.raises(StoreError, match=rf"another run \(the model in memory {said}\)"):
            run(tmp_path / "t", other, words, repair=repair, **MANY_SHARDS)
    run(tmp_path / "t", model.train().requires_grad_(False), words, **MANY_SHARDS)


def test_hooks_of_the_user_s_are_there_again_or_the_run_does_not_go_on(tmp_path, words):
    cut(tmp_path / "t", lent.steered(), words)
    with pytest.raises(StoreError, match=rf"another run \(the model in memory {BUILT}\)"):
        run(tmp_path / "t", lent.plain(), words, **MANY_SHARDS)
    run(tmp_path / "t", lent.steered(), words, **MANY_SHARDS)
    run(tmp_path / "whole", lent.steered(), words, **MANY_SHARDS)
    assert shard_bytes(tmp_path / "t") == shard_bytes(tmp_path / "whole")


def test_a_finished_run_is_opened_again_only_by_its_own_model(tmp_path, words):
    model = lent.quantized()
    run(tmp_path / "t", model, words, **MANY_SHARDS)
    before = {file: by_hand.fingerprint(file) for file in by_hand.shard_files(tmp_path / "t")}
    started = []
    run(tmp_path / "t", model, words, on_start=lambda *n: started.append(n), **MANY_SHARDS)
    assert started == [(6, 6)]
    assert {file: by_hand.fingerprint(file) for file in before} == before
    model.model.layers[0].mlp.up_proj.qweight[0, 0] += 1
    with pytest.raises(StoreError, match="has other weights"):
        run(tmp_path / "t", model, words, **MANY_SHARDS)


def test_a_damaged_shard_is_computed_again_from_the_model(tmp_path, words):
    model = lent.tuned()
    run(tmp_path / "t", model, words, **MANY_SHARDS)
    whole = shard_bytes(tmp_path / "t")
    file = by_hand.shard_files(tmp_path / "t")[2]
    file.write_bytes(file.read_bytes()[:-100])
    assert not probekit.verify(tmp_path / "t").whole
    run(tmp_path / "t", model, words, repair=True, **MANY_SHARDS)
    assert probekit.verify(tmp_path / "t").whole
    assert shard_bytes(tmp_path / "t") == whole


def test_without_a_digest_a_run_is_whole_and_cannot_go_on(tmp_path, words):
    model = tiny.build("gpt2")
    run(tmp_path / "whole", model, words, digest=False, **MANY_SHARDS)
    assert len(probekit.open(tmp_path / "whole").examples) == len(EXAMPLES)
    cut(tmp_path / "t", model, words, digest=False)
    for digest in (False, True):
        with pytest.raises(StoreError, match=r"not digested \(digest=False\).*--overwrite"):
            run(tmp_path / "t", model, words, digest=digest, **MANY_SHARDS)
    run(tmp_path / "t", model, words, digest=False, overwrite=True, **MANY_SHARDS)


def test_two_models_of_one_name_are_two_in_a_comparison(tmp_path, words):
    probes = [{"sites": "resid_post"}]
    run(tmp_path / "a", tiny.build("llama"), words, probes=probes)
    run(tmp_path / "b", lent.tuned(), words, probes=probes)
    assert probekit.compare(tmp_path / "a", tmp_path / "b").matrices
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    assert not probekit.compare(tmp_path / "a", tmp_path / "c").matrices
