"""Applying: what a readout says of the rows of another trace.

Knows the same place there, layer by layer; fits nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from probekit.analysis.readouts.result import Applied, AppliedLayer, LayerReadout, Readout
from probekit.analysis.readouts.scoring import said_classes
from probekit.analysis.readouts.siterows import SiteRows, refuse_unfit_site
from probekit.errors import StoreError
from probekit.trace import Site, Trace, open_trace

Array = np.ndarray[Any, Any]


def apply_readout(readout: Readout, trace: Trace | str | Path) -> Applied:
    """Say what a readout says; see `Readout.apply`."""
    trace = trace if isinstance(trace, Trace) else open_trace(trace)
    sites = [_site(readout, one, trace) for one in readout.layers]
    if len({site.rows for site in sites}) > 1:
        said = ", ".join(sorted({f"{site.rows} ({site.name})" for site in sites}))
        raise StoreError(f"{trace.path}: the sites were recorded at different positions: {said}")
    rows = SiteRows(sites[0], readout.pool)
    examples = np.repeat(rows.examples, rows.counts(rows.examples))
    return Applied(
        path=str(trace.path),
        target=readout.target,
        classes=readout.classes,
        examples=examples,
        ids=np.asarray(trace.examples.id[:], dtype=object)[examples],
        layers=tuple(
            _applied(readout, one, site) for one, site in zip(readout.layers, sites, strict=True)
        ),
    )


def _applied(readout: Readout, one: LayerReadout, site: Site) -> AppliedLayer:
    rows = SiteRows(site, readout.pool)
    weights = one.direction.astype(np.float64).reshape(-1, rows.n_features)
    bias = one.bias.reshape(-1)
    pieces = [block @ weights.T + bias for _, block in rows.blocks(rows.examples)]
    scores = np.concatenate([np.empty((0, len(weights))), *pieces])
    said = scores[:, 0]
    if readout.classes:
        is_text = isinstance(readout.classes[0], str)
        said = np.array(readout.classes, dtype=object if is_text else None)[said_classes(scores)]
    return AppliedLayer(
        key=one.key,
        site=site.name,
        layer=site.layer,
        scores=scores[:, 0] if len(weights) == 1 else scores,
        said=said,
    )


def _site(readout: Readout, one: LayerReadout, trace: Trace) -> Site:
    """Find the site that a layer's readout is of: by its portable name, or by its own."""
    if readout.portable is None:
        site = trace[one.site]
    else:
        site = trace.select(readout.portable, layer=one.layer)
    refuse_unfit_site(site)
    if tuple(site.shape[1:]) != readout.row_shape:
        raise StoreError(
            f"{trace.path}: {site.name} has rows of {list(site.shape[1:])}; this readout is of "
            f"rows of {list(readout.row_shape)} of {readout.model}"
        )
    return site
