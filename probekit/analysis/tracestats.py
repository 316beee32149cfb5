"""Statistics of many sites: what `trace.statistics()` says.

Knows which sites are the same place in other layers; what is said of each is in sitestats.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probekit import arguments
from probekit.analysis.expertload import ExpertLoads, expert_load, holds_choices
from probekit.analysis.sitestats import SiteStatistics, site_statistics, summary_of
from probekit.errors import StoreError
from probekit.extras import load_extra
from probekit.methods import results as methods
from probekit.store import FLOATS
from probekit.trace import Patterns, Shown, Table, choose_sites, collapse
from probekit.wording import counted, show_typed

if TYPE_CHECKING:
    from probekit.trace import Trace

OUTLIER_LAYERS = 0.25  # Dettmers et al. 2022, section 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierDimension:
    """A dimension that is an outlier in many layers."""

    sites: str  # "transformer.h.{0..11}/output": the sites of all layers it was looked for in
    dimension: tuple[int, ...]
    layers: tuple[str, ...]  # the names of the sites it is an outlier in
    share: float  # of the layers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TraceStatistics(Shown, Mapping[str, SiteStatistics]):
    """Statistics of sites by name, in the trace's order."""

    path: str
    sites: tuple[SiteStatistics, ...]
    experts: ExpertLoads  # of the sites of `expert_ids`: how many tokens each expert got

    def __getitem__(self, name: str) -> SiteStatistics:
        name = arguments.text("a site's name", name)
        name = name if "/" in name else f"{name}/output"
        for found in self.sites:
            if found.site == name:
                return found
        raise StoreError(f"{self.path}: there are no statistics of {name}; of: {', '.join(self)}")

    def __iter__(self) -> Iterator[str]:
        return (s.site for s in self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def outlier_dimensions(self, layers: float = OUTLIER_LAYERS) -> tuple[OutlierDimension, ...]:
        """Give the dimensions that are outliers in many layers, as Dettmers et al. (2022) do.

        Args:
            layers: the share of the layers recorded that must have it, at least.
        """
        if not isinstance(layers, int | float) or not layers >= 0:
            raise StoreError(f"layers is {show_typed(layers)}; expected a share, 0 to 1")
        found = []
        for shape, names in collapse(self).items():
            where: dict[tuple[int, ...], list[str]] = {}
            for name in names:
                for outlier in self[name].outliers:
                    where.setdefault(outlier.dimension, []).append(name)
            found += [
                OutlierDimension(
                    sites=shape,
                    dimension=dimension,
                    layers=tuple(there),
                    share=len(there) / len(names),
                )
                for dimension, there in sorted(where.items(), key=lambda item: -len(item[1]))
                if len(there) >= layers * len(names)
            ]
        return tuple(found)

    def to_pandas(self) -> Any:
        """Give a `pandas.DataFrame` with one row a site, indexed by its name."""
        pandas = load_extra("pandas", extra="analysis", purpose="to_pandas()")
        rows = [
            {"site": s.site, "layer": s.layer, "portable": s.portable, **summary_of(s)}
            for s in self.sites
        ]
        return pandas.DataFrame(rows).set_index("site")

    plot = methods.plot_norms

    def _table(self) -> Table:
        loads = (
            f"; .experts: loads in {counted(len(self.experts), 'layer')}" if self.experts else ""
        )
        columns = ("rows", "mean", "deviation", "mean_norm", "largest_norm", "zeros", "outliers")
        summaries = [summary_of(s) for s in self.sites]
        return Table(
            title=f"{self.path}: statistics of {counted(len(self.sites), 'site')}",
            columns=("site", *(c.replace("_", " ") for c in columns), "not finite"),
            rows=[
                (s.site, *(summary[c] for c in columns), s.n_nonfinite)
                for s, summary in zip(self.sites, summaries, strict=True)
            ],
            note=f"outliers: dimensions, after Dettmers et al. 2022{loads}",
        )


def trace_statistics(trace: Trace, sites: Patterns | None, **options: float) -> TraceStatistics:
    """Work out the statistics of many sites; see `Trace.statistics`."""
    chosen = choose_sites(trace, sites)
    routed = tuple(site for site in chosen if holds_choices(site))
    chosen = tuple(site for site in chosen if not holds_choices(site))
    if sites is None:
        chosen = tuple(site for site in chosen if site.dtype in FLOATS)
    return TraceStatistics(
        path=str(trace.path),
        sites=tuple(site_statistics(site, **options) for site in chosen),
        experts=ExpertLoads(path=str(trace.path), loads=tuple(map(expert_load, routed))),
    )
