"""A run over a stream that is killed while it reads, and again, ends with equal bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import probekit

PLACE = Path(probekit.__file__).parent / "samples" / "tiny-gpt2"
TEXTS = [f"The capital of Japan is Tokyo {n}" for n in range(1500)]

_KILLED = """
import os, signal, sys
import probekit
from probekit.inputs.datasets import opening

load, stop = opening._opened, int(sys.argv[2])

class Killed:
    def __init__(self, rows):
        self.rows, self.state_dict = rows, rows.state_dict
        self.load_state_dict = rows.load_state_dict
    def __iter__(self):
        for number, row in enumerate(self.rows):
            if number == stop:
                os.kill(os.getpid(), signal.SIGKILL)
            yield row

opening._opened = lambda *args: Killed(load(*args))
probekit.run(sys.argv[1], self_check=False)
"""


def config(folder: Path, path: str) -> Path:
    given: dict[str, Any] = {
        "model": {"name": "sample:tiny-gpt2", "device": "cpu", "dtype": "float32"},
        "inputs": {
            "dataset": {
                "name": "json",
                "data_files": str(folder / "texts.jsonl"),
                "streaming": True,
            },
            "columns": ["label"],
            "max_tokens": 6,
            "too_long": "split",
            "stride": 2,
        },
        "probes": [{"sites": "resid_post", "layers": 1, "positions": "last"}],
        "store": {"path": str(folder / path)},
    }
    (folder / f"{path}.yaml").write_text(json.dumps(given))
    return folder / f"{path}.yaml"


def files(path: Path) -> dict[str, bytes]:
    there = [p for p in path.rglob("*") if p.is_file() and not p.name.endswith("made.json")]
    return {str(p.relative_to(path)): p.read_bytes() for p in there}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("streams")
    rows = [json.dumps({"text": text, "label": n}) for n, text in enumerate(TEXTS)]
    (made / "texts.jsonl").write_text("\n".join(rows))
    probekit.run(config(made, "whole"), self_check=False)
    return made


@pytest.mark.parametrize(
    "stops",  # a second one goes on, and sees rows from the first mark on
    [(1400,), pytest.param((700, 1400), marks=pytest.mark.slow)],
)
def test_killed_while_it_reads_it_goes_on_with_equal_bytes(
    folder: Path, stops: tuple[int, ...]
) -> None:
    name = f"killed-{len(stops)}"
    given = config(folder, name)
    for stop in stops:
        done = subprocess.run(
            [sys.executable, "-c", _KILLED, str(given), str(stop)], capture_output=True, check=False
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        assert [*(folder / name).glob("inputs.*")] == [folder / name / "inputs.partial"]
    probekit.run(given, self_check=False)
    assert files(folder / name) == files(folder / "whole")
    assert probekit.verify(folder / name).whole


@pytest.mark.slow
def test_workers_that_begin_together_read_a_stream_once_and_give_equal_bytes(folder: Path) -> None:
    given = config(folder, "shared")
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "probekit", "run", str(given), "-q"],
            env={**os.environ, "RANK": str(number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    told = [worker.communicate()[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], told
    assert files(folder / "shared") == files(folder / "whole")


def test_rows_of_a_stream_are_what_a_bare_hook_sees(folder: Path) -> None:
    trace = probekit.open(folder / "whole")
    assert [trace.documents[n].text for n in (0, 7, 1499)] == [TEXTS[n] for n in (0, 7, 1499)]
    assert trace.documents[1499].columns == {"label": 1499}
    tokenizer = AutoTokenizer.from_pretrained(PLACE)
    more = {"truncation": True, "return_overflowing_tokens": True}
    pieces = tokenizer(TEXTS[:20], max_length=6, stride=2, **more)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(PLACE, dtype=torch.float32).eval()
    seen: list[torch.Tensor] = []
    model.transformer.h[1].register_forward_hook(
        lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    rows = np.array(trace.select("resid_post", layer=1)[: len(pieces)])
    with torch.inference_mode():
        for one, row in zip(pieces, rows, strict=True):
            model(torch.tensor([one]))
            torch.testing.assert_close(torch.from_numpy(row), seen[-1].reshape(len(one), -1)[-1])
