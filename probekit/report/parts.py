"""Which recorded sites the report shows, and as what; what to record where there are none.

Knows the names, axes and positions of sites; reads no rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from probekit.analysis import holds_choices
from probekit.store import EXAMPLE, FLOATS, TOKEN, is_choice
from probekit.trace import Site, Trace, examples_of

ATTENTION_AXES = ("token", "head", "key")
_NEURON_AXES = ("d_mlp", "neuron")
_FIRST_STREAMS = ("resid_post", "resid_pre", "resid_mid", "attn_out", "mlp_out")
_LAYER = re.compile(r"(?<=\.)\d+(?=[./])")

TITLES = {
    "attention": "attention",
    "candidates": "next-token candidates",
    "lens": "the lens",
    "streams": "norms",
    "generation": "a generation",
    "neurons": "neurons",
    "execution": "the execution order",
}
MISSING = {
    "attention": ("Attention was not recorded.", "- sites: pattern"),
    "candidates": (
        "Next-token candidates were not recorded.",
        "- {sites: logits, record: [top_k]}",
    ),
    "lens": ("The lens has no residual stream to look at.", "- sites: resid_post"),
    "streams": ("No output of the layers was recorded.", "- sites: resid_post"),
    "generation": (
        "The model was not asked to generate.",
        "generate: {max_new_tokens: 20}",
    ),
    "neurons": ("No neurons were recorded.", "- sites: mlp_post"),
    "execution": ("The execution order was not recorded.", "execution_order: true"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What lies at the same place of every layer, one number a token: a norm."""

    name: str  # portable where there is such a name, else the site with * for the layer
    unit: str  # "L2 norm", or what the trace says it is
    sites: tuple[Site, ...]  # by layer
    reduced: bool  # the trace has the number itself, [token], and no vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The sites of a trace by what the report makes of them."""

    attention: tuple[Site, ...]  # [token, head, key]
    streams: tuple[Stream, ...]
    columns: tuple[Stream, ...]  # of these each example has one row at most
    neurons: tuple[Site, ...]  # [token, d_mlp], or chosen neurons
    experts: tuple[Site, ...]  # [token, k]: which experts a token goes to
    top_k: tuple[Site, Site] | None  # ids and log-probabilities [token, k]
    logits: Site | None  # [token, d_vocab]
    token_logprob: Site | None
    entropy: Site | None


def roles_of(trace: Trace) -> Roles:
    """Sort the sites of a trace."""
    sites = [trace[name] for name in trace.site_names]
    by_token = [site for site in sites if site.axis == TOKEN]
    lone = [site for site in sites if has_one_row(site)]
    top = next((s for s in by_token if s.kind == "top_k.logprob" and len(s.axes) == 2), None)
    return Roles(
        attention=tuple(
            s for s in by_token if s.kind.startswith("pattern") and s.axes == ATTENTION_AXES
        ),
        streams=_streams([site for site in by_token if site not in lone]),
        columns=_streams(lone),
        neurons=tuple(s for s in by_token if s.axes[1:] in {(a,) for a in _NEURON_AXES}),
        experts=tuple(s for s in by_token if holds_choices(s)),
        top_k=(trace[f"{top.module}/top_k.id"], top) if top is not None else None,
        logits=next(
            (s for s in by_token if s.portable == "logits" and s.axes[1:] == ("d_vocab",)), None
        ),
        token_logprob=_first(by_token, "token_logprob"),
        entropy=_first(by_token, "entropy"),
    )


def has_one_row(site: Site) -> bool:
    """Say whether each example has one row of a site at most: `positions: last`, or pooled."""
    if site.axis == EXAMPLE:
        return True
    if site.axis != TOKEN or not is_choice(site.rows) or len(site) > len(site.trace.examples):
        return False
    owners = examples_of(site, slice(0, len(site)))
    return bool((np.diff(owners) > 0).all())


def _first(sites: list[Site], kind: str) -> Site | None:
    return next((s for s in sites if s.kind == kind and len(s.axes) == 1), None)


def _streams(sites: list[Site]) -> tuple[Stream, ...]:
    groups: dict[str, list[Site]] = {}
    for site in sites:
        if site.layer is not None and _is_stream(site):
            groups.setdefault(site.portable or _LAYER.sub("*", site.name, count=1), []).append(site)
    order = {name: place for place, name in enumerate(_FIRST_STREAMS)}
    names = sorted(groups, key=lambda name: order.get(name, len(order)))
    return tuple(_stream(name, groups[name]) for name in names)


def _is_stream(site: Site) -> bool:
    if site.dtype not in FLOATS or site.kind.startswith("top_k"):
        return False
    if site.axes[1:] == ("expert",) or site.kind == "expert_weights":
        return False  # one number an expert: no vector of the stream
    op = site.attributes.get("einops_op")
    if len(site.axes) == 1:
        return op is not None
    return len(site.axes) == 2 and site.axes[1] != "neuron" and op in (None, "norm")


def _stream(name: str, sites: list[Site]) -> Stream:
    reduced = len(sites[0].axes) == 1
    op = sites[0].attributes.get("einops_op", "norm")
    return Stream(
        name=name,
        unit="L2 norm" if op == "norm" else str(op),
        sites=tuple(sorted(sites, key=lambda s: s.layer or 0)),
        reduced=reduced,
    )


def map_labels(sites: tuple[Site, ...]) -> tuple[str, ...]:
    """Name attention maps, or mixtures: by layer where that says which, else by module."""
    layers = [site.layer for site in sites]
    if None in layers or len(set(layers)) < len(layers):
        return tuple(
            site.name.removesuffix("/pattern").removesuffix("/expert_ids") for site in sites
        )
    return tuple(f"layer {layer}" for layer in layers)
