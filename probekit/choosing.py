"""Choosing: the sites of a trace that a user names, by glob or by portable name.

Knows names alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from probekit.errors import StoreError
from probekit.summary import collapse

if TYPE_CHECKING:
    from probekit.site import Site
    from probekit.trace import Trace

Asked = str | Sequence[str] | None


def choose_sites(trace: Trace, asked: Asked) -> list[Site]:
    """Give the sites that are meant.

    Args:
        trace: whose sites.
        asked: portable names and globs of sites (`transformer.h.*.attn/pattern`), one or several;
            None means all sites.

    Raises:
        StoreError: if one of them means nothing; the message says what was recorded.
    """
    every = [trace[name] for name in trace]
    if asked is None:
        return every
    found: dict[str, Site] = {}
    for one in [asked] if isinstance(asked, str) else asked:
        here = [*trace.match(one), *(site for site in every if site.portable == one)]
        if not here:
            raise StoreError(
                f"{trace.path}: {one!r} matches no recorded site; recorded: {recorded(trace)}"
            )
        found |= {site.name: site for site in here}
    return list(found.values())


def recorded(trace: Trace) -> str:
    """Say what was recorded: sites by layer, and portable names."""
    portable = sorted({str(trace[name].portable) for name in trace if trace[name].portable})
    names = ", ".join(collapse(trace.site_names)) or "nothing"
    return names + (f" (portable names: {', '.join(portable)})" if portable else "")
