"""What a campaign says: how often something was tried, how it went, and what got through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from campaigns.runs import Undisturbed

Runs = Mapping[str, Undisturbed]  # by the name of their config


@dataclass(slots=True)
class Tally:
    """Counts of one campaign."""

    counts: Counter[str] = field(default_factory=Counter)  # tried, by kind or by outcome
    lost: list[str] = field(default_factory=list)  # one description for each that got through
    tell: Callable[[int], None] = lambda tried: None  # called after every try

    @property
    def tried(self) -> int:
        """How often something was done to a run."""
        return self.counts.total()

    def count(self, kind: str, problems: list[str]) -> None:
        """Count one try; any problem makes it one that was lost."""
        self.counts[kind] += 1
        if problems:
            self.lost.append(f"{kind}: {'; '.join(problems)}")
        self.tell(self.tried)


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """Something that is done to runs, and how often."""

    carry_out: Callable[[int, Random, Path, Runs, Tally], None]  # how often, chance, folder, runs
    full: int
    quick: int
