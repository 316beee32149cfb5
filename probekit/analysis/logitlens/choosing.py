"""Which recorded sites the lens looks at, and what the final prediction is read from.

Knows names, axes and positions of sites; neither models nor torch.
"""

from __future__ import annotations

from probekit.errors import StoreError
from probekit.store import TOKEN, number_of
from probekit.trace import Site, Trace

RESIDUALS = ("resid_pre", "resid_mid", "resid_post")


def residuals(trace: Trace, name: str = "resid_post") -> list[Site]:
    """Give the residual streams of a name, by layer.

    Raises:
        StoreError: if there are none as the model made them, or not at the same positions.
    """
    if name not in RESIDUALS:
        raise StoreError(f"the lens looks at {', '.join(RESIDUALS)}; given {name!r}")
    found = [trace[n] for n in trace if trace[n].portable == name]
    whole = [s for s in found if s.axes == (TOKEN, "d_model") and "einops" not in s.attributes]
    if not whole:
        there = ", ".join(sorted({str(trace[n].portable) for n in trace if trace[n].portable}))
        but = " as it is: it was pooled, rearranged or cut" if found else ""
        raise StoreError(
            f"{trace.path}: {name} was not recorded{but}; add the probe `- sites: {name}`. "
            f"Portable names recorded: {there or 'none'}"
        )
    if len({site.rows for site in whole}) > 1:
        raise StoreError(f"{trace.path}: {name} was recorded at other positions in other layers")
    return sorted(whole, key=lambda site: site.layer or 0)


def final_of(trace: Trace, rows: str) -> Site:
    """Give the site that the final prediction is read from.

    Raises:
        StoreError: if there is none at these positions.
    """
    last = (number_of(trace.provenance, "n_layers", str(trace.path)) or 0) - 1
    for name, layer in (("resid_post", last), ("ln_final", None), ("logits", None)):
        for site in (trace[n] for n in trace):
            whole = len(site.axes) == 2 and site.axes[1] in ("d_model", "d_vocab")
            if (site.portable, site.layer, site.rows) == (name, layer, rows) and whole:
                return site
    raise StoreError(
        f"{trace.path}: the final prediction was not recorded at positions {rows}: add resid_post "
        f"of the last layer (`layers: [..., -1]`), ln_final or logits to the probes"
    )
