"""How many tokens each expert got: what `trace.statistics().experts` says.

Knows sites of `expert_ids`; nothing of models. A load is counted over the rows that were recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.errors import StoreError
from probekit.extras import load_extra
from probekit.store import number_of
from probekit.trace import Shown, Table, row_slices
from probekit.wording import counted

if TYPE_CHECKING:
    from probekit.trace import Site

Array = np.ndarray[Any, Any]

EXPERT_IDS = "expert_ids"
MOST_EXPERTS = 1 << 16  # of a layer; a file that says more is not one of ours


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ExpertLoad(Shown):
    """How the tokens of one layer are spread over its experts."""

    site: str
    layer: int | None
    n_tokens: int  # rows
    counts: Array  # int64 [expert]: how many tokens chose it

    @property
    def n_experts(self) -> int:
        """How many experts a token can choose among."""
        return len(self.counts)

    @property
    def shares(self) -> Array:
        """The share of all choices that each expert got, float64 [expert]; 1 / experts if even."""
        total = self.counts.sum()
        return self.counts / total if total else np.full(len(self.counts), np.nan)

    @property
    def entropy(self) -> float:
        """Entropy of the shares, in nats; the logarithm of the number of experts if even."""
        used = self.shares[self.counts > 0]
        return float(-(used * np.log(used)).sum()) + 0.0 if used.size else float("nan")

    @property
    def evenness(self) -> float:
        """Entropy as a share of its most: 1 if all experts get alike, 0 if one gets all."""
        return self.entropy / float(np.log(self.n_experts)) if self.n_experts > 1 else float("nan")

    @property
    def unused(self) -> tuple[int, ...]:
        """The experts that no token chose."""
        return tuple(int(n) for n in np.flatnonzero(self.counts == 0))

    def _table(self) -> Table:
        order = np.argsort(-self.counts, kind="stable")
        return Table(
            title=f"{self.site}: {counted(self.n_tokens, 'token')}",
            columns=("expert", "tokens", "share of choices"),
            rows=[(int(n), int(self.counts[n]), float(self.shares[n])) for n in order],
            note=f"entropy {self.entropy:.4g} nats, evenness {self.evenness:.4g}",
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ExpertLoads(Shown, Sequence[ExpertLoad]):
    """The loads of all layers whose `expert_ids` were recorded, in the trace's order."""

    path: str
    loads: tuple[ExpertLoad, ...]

    def __getitem__(self, place: Any) -> Any:
        return self.loads[place]

    def __iter__(self) -> Iterator[ExpertLoad]:
        return iter(self.loads)

    def __len__(self) -> int:
        return len(self.loads)

    def to_pandas(self) -> Any:
        """Give a `pandas.DataFrame` with one row a site and expert."""
        pandas = load_extra("pandas", extra="analysis", purpose="to_pandas()")
        rows = [
            {"site": load.site, "layer": load.layer, "expert": n, "tokens": tokens, "share": share}
            for load in self.loads
            for n, (tokens, share) in enumerate(zip(load.counts, load.shares, strict=True))
        ]
        columns = ["site", "layer", "expert", "tokens", "share"]
        return pandas.DataFrame(rows, columns=columns).set_index(["site", "expert"])

    def _table(self) -> Table:
        return Table(
            title=f"{self.path}: loads of experts in {counted(len(self), 'site')}",
            columns=("site", "tokens", "experts", "unused", "busiest", "its share", "evenness"),
            rows=[
                (
                    load.site,
                    load.n_tokens,
                    load.n_experts,
                    len(load.unused),
                    int(load.counts.argmax()),
                    float(load.shares.max()),
                    load.evenness,
                )
                for load in self.loads
            ],
            note="evenness: entropy of the shares, 1 if all experts get alike",
        )


def holds_choices(site: Site) -> bool:
    """Say whether a site has the numbers of the experts that tokens go to, `[token, k]`."""
    return site.kind == EXPERT_IDS and len(site.axes) == 2 and np.dtype(site.dtype).kind == "i"


def expert_load(site: Site) -> ExpertLoad:
    """Count how often each expert of a layer was chosen.

    Raises:
        StoreError: if the site holds something else, or numbers of experts that there are not.
    """
    n_experts = number_of(site.attributes, "n_experts", site.name)
    if n_experts is not None and not 0 < n_experts <= MOST_EXPERTS:
        raise StoreError(f"{site.name}: n_experts is {n_experts}; expected 1 to {MOST_EXPERTS}")
    counts = np.zeros(n_experts or 0, dtype=np.int64)
    for rows in row_slices(len(site), site.shape[1:]):
        ids = np.asarray(site[rows]).reshape(-1)
        most = MOST_EXPERTS if n_experts is None else n_experts
        if ids.size and not 0 <= ids.min() <= ids.max() < most:
            raise StoreError(
                f"{site.name}: holds expert {ids.min() if ids.min() < 0 else ids.max()}, and there "
                f"are {most} (0..{most - 1}); `probekit verify` says whether the file is damaged"
            )
        found = np.bincount(ids, minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    return ExpertLoad(site=site.name, layer=site.layer, n_tokens=len(site), counts=counts)
