"""Said: what the shards of a run say that its index sums up.

Knows open shards, one after another, of which it keeps what is small; nothing of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from probekit.store.format import COUNTS, Execution, Forward, SiteSpec, read_execution, schema

SUMMED = "generate_"  # attributes of a shard that the index adds up begin so


class Said:
    """What is summed up over all shards.

    Args:
        sites: of the run.
    """

    def __init__(self, sites: Sequence[SiteSpec]) -> None:
        self.counts: dict[str, Counter[str]] = {spec.name: Counter() for spec in sites}
        self.sums: Counter[str] = Counter()  # seconds of generating, and the like
        self.joined = Joined()
        self._paths = {spec.name: schema.site_path(spec) for spec in sites}

    def add(self, shard: h5py.File) -> None:
        """Add what one shard says: what ran, how long it took, values that are not finite."""
        if (part := read_execution(shard)) is not None:
            self.joined.add(part)
        self.sums.update({k: shard.attrs[k].item() for k in shard.attrs if k.startswith(SUMMED)})
        for name, path in self._paths.items():
            counted = shard[path].attrs
            self.counts[name].update({n: int(counted[n]) for n in COUNTS if n in counted})


class Joined:
    """The executions of several shards of one run as one: equal orders once."""

    def __init__(self) -> None:
        self._modules: tuple[str, ...] | None = None  # None before the first
        self._orders: list[np.ndarray[Any, Any]] = []
        self._numbers: dict[bytes, int] = {}
        self._forwards: list[Forward] = []

    def add(self, part: Execution) -> None:
        """Add the execution of the next shard."""
        if self._modules is None:
            self._modules = part.modules
        renumbered = []
        for order in part.orders:
            key = order.tobytes()
            if key not in self._numbers:
                self._numbers[key] = len(self._orders)
                self._orders.append(order)
            renumbered.append(self._numbers[key])
        self._forwards += [replace(f, order=renumbered[f.order]) for f in part.forwards]

    @property
    def execution(self) -> Execution | None:
        """What was added; None where it was nothing."""
        if self._modules is None:
            return None
        return Execution(
            modules=self._modules, orders=tuple(self._orders), forwards=tuple(self._forwards)
        )
