"""Ranks: which of many workers a process is, and where it begins."""

from __future__ import annotations

import pytest

from probekit import ranks


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, None),
        ({"RANK": "3"}, 3),
        ({"SLURM_PROCID": "2"}, 2),
        ({"PROBEKIT_WORKER": "1", "RANK": "3"}, 1),
        ({"RANK": "many"}, None),
    ],
)
def test_rank(environment: dict[str, str], rank: int | None) -> None:
    assert ranks.rank(environment) == rank


def test_workers_begin_apart_whatever_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    begins = []
    for number in range(8):
        monkeypatch.setenv("RANK", str(number))
        order = ranks.spread(range(80))
        assert sorted(order) == list(range(80))
        begins.append(order[0])
    assert begins == [0, 40, 20, 60, 10, 50, 30, 70]
    monkeypatch.delenv("RANK")
    assert ranks.spread(range(5)) == [0, 1, 2, 3, 4]
