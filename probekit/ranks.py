"""Ranks: which of many workers this process is, as what started it says.

Knows the environment variables of torchrun, SLURM and of `probekit run --workers`; nothing of runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

WORKER = "PROBEKIT_WORKER"  # of a process that `--workers` or `--on` started
_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")
_RANKS = (WORKER, "RANK", "SLURM_PROCID")


def rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """Give the number of this worker, from 0; None where nothing says that it is one of many."""
    return _number(environment, _RANKS)


def local_rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """Give the number of this worker among those of its machine; None where nothing says it."""
    return _number(environment, _LOCAL_RANKS)


def _number(environment: Mapping[str, str], names: Sequence[str]) -> int | None:
    said = next((environment[name] for name in names if name in environment), "")
    return int(said) if said.isdecimal() else None


def spread(todo: Sequence[T]) -> list[T]:
    """Give what is to be done in the order in which this worker tries it.

    Each begins elsewhere, so that they seldom ask for the same: worker 1 in the middle, 2 at a
    quarter, 3 at three quarters, and so on, whatever their number. It decides no more than that.
    """
    begin = int(_fraction(rank() or 0) * len(todo))
    return [*todo[begin:], *todo[:begin]]


def _fraction(number: int) -> float:
    """Give the digits of a number behind the point, the last first: 1 is 1/2, 2 1/4, 3 3/4."""
    found, half = 0.0, 0.5
    while number:
        found += half * (number % 2)
        number, half = number // 2, half / 2
    return found
