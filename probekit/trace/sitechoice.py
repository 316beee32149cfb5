"""Choosing: the sites of a trace that patterns name.

Knows globs, portable names and what was recorded; reads no rows.
"""

from __future__ import annotations

from collections.abc import Iterable

from probekit import arguments
from probekit.config import match_paths, nearest, unmatched_choices
from probekit.errors import StoreError
from probekit.trace.names import collapse
from probekit.trace.site import Site
from probekit.trace.trace import Trace

Patterns = str | Iterable[str]


def choose_sites(trace: Trace, patterns: Patterns | None) -> tuple[Site, ...]:
    """Give the sites that patterns name, each once, in the order of the patterns.

    Args:
        trace: where they were recorded.
        patterns: one or several of: a glob of module paths, `/kind` behind it for another record
            kind than `output`; a portable name, which means all its layers. None means all sites.

    Raises:
        StoreError: if a pattern names nothing that was recorded; the message says what was.
    """
    if patterns is None:
        return tuple(trace[name] for name in trace.site_names)
    if isinstance(patterns, list | tuple) and not patterns:
        raise StoreError(f"{trace.path}: no sites were asked for; recorded: {recorded(trace)}")
    given = arguments.texts("sites", patterns)
    names = dict.fromkeys(name for pattern in given for name in _names(trace, pattern))
    return tuple(trace[name] for name in names)


def _names(trace: Trace, pattern: str) -> tuple[str, ...]:
    module, _, kind = pattern.partition("/")
    if pattern in trace._portable:
        return tuple(trace._portable[pattern].values())
    paths = _paths(trace, kind or "output")
    found = match_paths(module, paths)
    if lost := unmatched_choices(module, paths) if found else (pattern,):
        raise StoreError(_not_recorded(trace, lost[0].partition("/")[0], kind))
    return tuple(f"{path}/{kind or 'output'}" for path in found)


def _paths(trace: Trace, kind: str) -> list[str]:
    return [n.partition("/")[0] for n in trace.site_names if n.partition("/")[2] == kind]


def _not_recorded(trace: Trace, module: str, kind: str) -> str:
    asked = f"{module}/{kind}" if kind else module
    says = f"{trace.path}: {asked} was not recorded"
    kinds = sorted({n.partition("/")[2] for n in trace.site_names})
    there = [k for k in kinds if match_paths(module, _paths(trace, k))]
    if there:
        return f"{says}; of {module} there is: {', '.join(f'{module}/{k}' for k in there)}"
    same = kind or "output"
    near = [f"{p}/{kind}" if kind else p for p in nearest(module, _paths(trace, same), 3)]
    hint = f"the nearest: {', '.join(near)}; " if near else ""
    return f"{says}; {hint}recorded: {recorded(trace)}"


def recorded(trace: Trace) -> str:
    """Say what was recorded: sites by layer, and portable names."""
    shown = ", ".join(collapse(trace.site_names)) or "nothing"
    return shown + (f" (portable names: {', '.join(trace._portable)})" if trace._portable else "")
