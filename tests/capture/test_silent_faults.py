"""Silent faults made loud: values that are not finite, devices that are too small, dead threads."""

from __future__ import annotations

import os
import time
from pathlib import Path
from threading import Event, current_thread
from typing import Any

import by_hand
import h5py
import numpy as np
import pytest
import tiny_models as tiny
import torch
from by_hand import EXAMPLES
from far_rows import GPU, far, record_stream

import probekit
from probekit import models
from probekit.capture.rows import transfer
from probekit.errors import CaptureError, StoreError

ACT = "transformer.h.{}.mlp.act"
PROBES = [{"modules": "transformer.h.*.mlp.act"}, {"sites": "resid_post", "pool": "mean"}]


def loud_model(folder: Path) -> Path:
    """Save a tiny GPT-2 whose first MLP goes beyond float16, and beyond float32 for token 99."""
    model = tiny.build("gpt2")
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight *= 1e5
        model.transformer.wte.weight[99] = torch.inf
    return by_hand.save_model(folder / "model", model)


def counts(path: Path, site: str) -> tuple[int, int]:
    with h5py.File(path) as file:
        attributes = file[f"sites/{site}"].attrs
        return int(attributes["n_nonfinite"]), int(attributes["n_overflow"])


# --- values


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    return loud_model(tmp_path_factory.mktemp("loud"))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_values_that_are_not_finite_are_counted_by_site(loud, tmp_path, dtype):
    config = by_hand.config(loud, tmp_path / "t", probes=PROBES)
    config["store"] |= {"dtype": dtype, "shard_bytes": 4000}
    with pytest.warns(probekit.ProbekitWarning) as warned:
        trace = probekit.run(config)
    plain = models_of(loud)
    for layer in (0, 1):
        rows = by_hand_rows(plain, ACT.format(layer))
        odd = ~np.isfinite(rows)
        with np.errstate(over="ignore"):
            over = ~np.isfinite(rows.astype(dtype)) & ~odd
        name = f"{ACT.format(layer)}/output"
        assert counts(tmp_path / "t" / "trace.h5", name) == (odd.sum(), over.sum())
        assert trace[name].attributes["n_overflow"] == over.sum()
        by_shard = [counts(p, name) for p in sorted((tmp_path / "t/shards").glob("*.h5"))]
        assert len(by_shard) > 1
        assert tuple(np.sum(by_shard, axis=0)) == (odd.sum(), over.sum())
    messages = [str(w.message) for w in warned]
    assert any("NaN or infinite as the model computed them" in m for m in messages)
    assert any("too large for the dtype" in m for m in messages) == (dtype == "float16")


def models_of(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def by_hand_rows(model: Any, path: str) -> np.ndarray[Any, Any]:
    """Give a module's output at every token, one example at a time, by a plain hook."""
    kept: list[Any] = []
    handle = model.get_submodule(path).register_forward_hook(lambda m, a, out: kept.append(out[0]))
    with torch.inference_mode():
        for ids in EXAMPLES:
            model(torch.tensor([ids]))
    handle.remove()
    return torch.cat(kept).numpy()


def test_overflow_is_an_error_where_the_config_says_so(loud, tmp_path):
    config = by_hand.config(loud, tmp_path / "t", probes=PROBES)
    config["store"] |= {"dtype": "float16", "on_overflow": "error"}
    with pytest.raises(CaptureError, match=r"too large for store.dtype float16: .*h.0.mlp.act"):
        probekit.run(config)
    assert not list((tmp_path / "t" / "shards").glob("*.h5"))
    config["store"] |= {"on_overflow": "warn"}  # the same run: it goes on
    with pytest.warns(probekit.ProbekitWarning):
        probekit.run(config)


def test_what_is_not_finite_by_design_is_not_a_fault(tmp_path):
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")
    probes = [
        {"sites": "scores"},
        {"modules": "lm_head", "record": ["token_logprob", "entropy", "top_k"]},
    ]
    trace = probekit.run(by_hand.config(model, tmp_path / "t", probes=probes))
    assert np.isneginf(trace.select("scores", layer=0)[:]).any()
    assert np.isnan(trace["lm_head/token_logprob"][:]).sum() == len(EXAMPLES)
    for name in trace.site_names:
        if trace[name].dtype == "float32":
            assert counts(tmp_path / "t" / "trace.h5", name) == (0, 0)
        else:
            assert "n_nonfinite" not in trace[name].attributes


# --- a device that is too small


@pytest.fixture
def small_device(monkeypatch):
    """Make every forward pass of more than so many examples fail as CUDA does, late in the pass."""
    tried: list[int] = []

    def shrink(n_examples: int, layer: int = 1) -> list[int]:
        load = models.load_model

        def load_small(*given: Any) -> Any:
            model = load(*given)

            def refuse(module: Any, args: Any, output: Any) -> None:
                tried.append(len(args[0]))
                if len(args[0]) > n_examples:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

            model.get_submodule(f"transformer.h.{layer}.mlp.c_proj").register_forward_hook(refuse)
            return model

        monkeypatch.setattr(models, "load_model", load_small)
        return tried

    return shrink


def test_a_batch_that_is_too_large_is_split_and_the_values_stay(tmp_path, small_device):
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")
    config = by_hand.config(model, tmp_path / "whole", probes=PROBES, execution_order=True)
    config["inputs"]["batch_tokens"] = 200
    whole = probekit.run(config)
    tried = small_device(2)
    config["store"]["path"] = str(tmp_path / "split")
    with pytest.warns(probekit.ProbekitWarning, match="too large for the memory of cpu") as warned:
        split = probekit.run(config)
    assert len(warned) == 1
    assert max(tried) > 2
    for name in whole.site_names:
        assert np.abs(whole[name][:] - split[name][:]).max() < 1e-5
    assert split.execution is not None
    seen = sorted(e for f in split.execution.forwards for e in f.examples)
    assert seen == list(range(len(EXAMPLES)))
    assert max(len(f.examples) for f in split.execution.forwards) <= 2


def test_one_example_that_is_too_large_is_an_error(tmp_path, small_device):
    small_device(0)
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")
    config = by_hand.config(model, tmp_path / "t", probes=[{"sites": "mlp_out"}])
    with (
        pytest.warns(probekit.ProbekitWarning),
        pytest.raises(CaptureError, match="an example of 13 tokens is too large for the memory"),
    ):
        probekit.run(config, self_check=False)


@pytest.mark.parametrize("use_cache", [True, "both"])
def test_generation_is_split_too_and_gives_the_same_tokens(tmp_path, small_device, use_cache):
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")
    generate = {"max_new_tokens": 4, "strategy": "sample", "use_cache": use_cache}
    config = by_hand.config(model, tmp_path / "whole", probes=PROBES[:1], generate=generate)
    config["inputs"] = {
        "texts": [by_hand.text_of(ids[:5]) for ids in EXAMPLES if len(ids) >= 5],
        "batch_tokens": 1000,
    }
    whole = probekit.run(config)
    small_device(2)
    config["store"]["path"] = str(tmp_path / "split")
    with pytest.warns(probekit.ProbekitWarning, match="a batch of 5 examples of up to 9 tokens"):
        split = probekit.run(config)
    assert np.array_equal(whole.tokens.id[:], split.tokens.id[:])
    for name in whole.site_names:
        assert np.abs(whole[name][:] - split[name][:]).max() < 1e-5


def test_what_was_generated_before_the_memory_ended_is_in_no_table(tmp_path, monkeypatch):
    load, passes = models.load_model, []

    def load_small(*given: Any) -> Any:
        model = load(*given)

        def refuse(module: Any, args: Any) -> None:
            passes.append(len(args[0]))
            if len(passes) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

        model.lm_head.register_forward_pre_hook(refuse)
        return model

    monkeypatch.setattr(models, "load_model", load_small)
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")
    texts = [by_hand.text_of(ids[:5]) for ids in EXAMPLES if len(ids) >= 5][:2]
    generate = {"max_new_tokens": 4, "stop_at_eos": False}
    config = by_hand.config(
        model, tmp_path / "t", probes=PROBES[:1], generate=generate, execution_order=True
    )
    config["inputs"] = {"texts": texts}
    with pytest.warns(probekit.ProbekitWarning, match="a batch of 2 examples"):
        trace = probekit.run(config, self_check=False)
    assert passes[:4] == [2, 2, 2, 1]
    assert trace.execution is not None
    alone = [("prefill", 5), *[("decode", 1)] * 4]
    found = [(f.phase, f.n_tokens, f.examples) for f in trace.execution.forwards]
    assert found == [(*one, (example,)) for example in (0, 1) for one in alone]


# --- rows that come from threads, as on a GPU


class SlowLink:
    """Copies when it is waited for, as a GPU's copies arrive late."""

    def __init__(self, n_bytes: int) -> None:
        self.arena = torch.full((n_bytes,), 0xFE, dtype=torch.uint8)

    def start(self, rows: torch.Tensor, place: torch.Tensor) -> Any:
        record_stream(rows)

        class Late:
            def synchronize(self) -> None:
                with torch.inference_mode():
                    place.copy_(rows)

        return Late()

    def close(self) -> None:
        pass


@pytest.fixture
def threads(monkeypatch):
    """Make rows leave the CPU as they leave a GPU: packed, through a small ring, by threads."""
    from probekit.capture import running as capture
    from probekit.capture.rows import receiver

    class Threaded(transfer.Transfer):
        def __init__(self, device: Any, *, buffer_bytes: int, row_bytes: int) -> None:
            n_bytes = max(1 << 12, 4 * (row_bytes + 64))
            link = SlowLink(n_bytes)
            super().__init__(GPU, buffer_bytes=n_bytes, row_bytes=row_bytes, link=link)

    monkeypatch.setattr(capture, "Transfer", Threaded)
    monkeypatch.setattr(receiver, "padded", lambda *_: None)  # what the CPU alone can do
    send = receiver.Receiver._send

    def send_far(self: Any, number: int, rows: torch.Tensor, *more: Any) -> None:
        send(self, number, far(rows), *more)

    monkeypatch.setattr(receiver.Receiver, "_send", send_far)


EVERY_KIND = [
    {"modules": "transformer.h.*", "record": ["output", "input"]},
    {"sites": ["pattern", "q", "v", "z"], "heads": [0, 2]},
    {"modules": "transformer.h.*.mlp.act", "positions": "last", "neurons": [1, 5]},
    {"sites": "mlp_out", "pool": "max"},
    {"modules": "lm_head", "record": ["top_k", "token_logprob", "entropy"]},
]


@pytest.mark.parametrize("generate", [None, {"max_new_tokens": 3}])
def test_rows_from_threads_are_the_rows(tmp_path, request, generate):
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")
    probes = [p for p in EVERY_KIND if generate is None or not {"positions", "pool"} & set(p)]
    config = by_hand.config(model, tmp_path / "plain", probes=probes, generate=generate)
    plain = probekit.run(config)
    request.getfixturevalue("threads")
    config["store"]["path"] = str(tmp_path / "threaded")
    threaded = probekit.run(config)
    assert plain.site_names == threaded.site_names
    for name in plain.site_names:
        assert plain[name].raw(slice(None)).tobytes() == threaded[name].raw(slice(None)).tobytes()


def refuse_rows(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    write = os.pwrite

    def refuse(fd: int, data: Any, offset: int) -> int:
        if current_thread().name == "probekit-rows":
            raise error
        return write(fd, data, offset)

    monkeypatch.setattr("os.pwrite", refuse)


def test_a_thread_that_meets_a_full_disk_ends_the_run_with_that(tmp_path, threads, monkeypatch):
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")

    refuse_rows(monkeypatch, OSError(28, "No space left on device"))
    with pytest.raises(StoreError, match=r"00000.h5: cannot be written: No space left on device"):
        probekit.run(by_hand.config(model, tmp_path / "t", probes=PROBES), self_check=False)
    assert not list((tmp_path / "t" / "shards").iterdir())


def test_a_thread_that_dies_ends_the_run_with_the_cause(tmp_path, threads, monkeypatch):
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")

    refuse_rows(monkeypatch, ZeroDivisionError("odd"))
    with pytest.raises(CaptureError, match="the thread that hands rows on died: ZeroDivisionError"):
        probekit.run(by_hand.config(model, tmp_path / "t", probes=PROBES), self_check=False)


@pytest.mark.parametrize("generate", [None, {"max_new_tokens": 3}])
def test_threads_have_left_a_file_when_it_closes(tmp_path, threads, monkeypatch, generate):
    """A number that was given back may be another file's a moment later."""
    write = os.pwrite
    at_work, gone = Event(), []

    def slow(fd: int, data: Any, offset: int) -> int:
        if current_thread().name == "probekit-rows":
            at_work.set()
            time.sleep(0.05)
            try:
                os.fstat(fd)
            except OSError as error:
                gone.append(error)
        return write(fd, data, offset)

    def stop(progress: probekit.capture.Progress) -> None:
        assert at_work.wait(timeout=30)
        raise KeyboardInterrupt

    monkeypatch.setattr("os.pwrite", slow)
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")
    config = by_hand.config(model, tmp_path / "t", probes=PROBES[:1], generate=generate)
    with pytest.raises(KeyboardInterrupt):
        probekit.run(config, self_check=False, on_progress=stop)
    assert gone == []
