"""How far rows differ: a wrong row shows itself, rounding does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probekit.capture.selfcheck.rowdifference import TOLERANCES, difference

nan, inf = np.nan, np.inf


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.5 / np.sqrt(2.5)),
        ([nan, 1.0], [nan, 1.0], 0.0),
        ([nan, 1.0], [0.0, 1.0], inf),
        ([-inf, 1.0], [-inf, 2.0], 1.0 / np.sqrt(2.0)),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 1.0], [0.0, 0.0], inf),
        ([nan], [nan], 0.0),
        ([1.0], [1.0, 2.0], inf),
    ],
)
def test_it_is_measured_by_the_spread(a: list[float], b: list[float], wanted: float) -> None:
    assert difference(np.array(a), np.array(b)) == pytest.approx(wanted)


def residual_stream(n_rows: int = 40) -> np.ndarray:
    """Rows as a language model has them: two features are hundreds of times as large."""
    rows = np.random.default_rng(0).normal(size=(n_rows, 512))
    rows[:, [7, 100]] *= 1000
    return rows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_to_sixteen_bits_passes(dtype: torch.dtype) -> None:
    rows = residual_stream()
    rounded = torch.from_numpy(rows).to(dtype).double().numpy()
    assert difference(rounded, rows) < TOLERANCES[str(dtype).removeprefix("torch.")] / 10


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_one_wrong_row_does_not(dtype: str) -> None:
    rows = residual_stream()
    wrong = rows.copy()
    wrong[5] = rows[6]
    assert difference(wrong, rows) > 1 > TOLERANCES[dtype]
    wrong[5] = rows[5]
    wrong[5, 200:] = rows[6, 200:]  # without the large features: 0.002 of the largest value
    assert np.abs(wrong - rows).max() < 0.01 * np.abs(rows).max()
    assert difference(wrong, rows) > TOLERANCES[dtype]


def test_attention_is_measured_over_heads_and_keys() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(6), size=(5, 3))  # [query, head, key]
    assert difference(rows, rows + 1e-9) < 1e-6
    turned = rows.copy()
    turned[2] = rows[3]
    assert difference(turned, rows) > 0.2
