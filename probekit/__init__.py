"""probekit: record what happens inside language models, and read it back.

Importing this package is cheap and loads no torch: each name below is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from probekit.version import __version__ as __version__

if TYPE_CHECKING:
    from probekit.analysis import compare, fit_readout, lens, load_readout
    from probekit.capture import run
    from probekit.errors import (
        CaptureError,
        ConfigError,
        PlanError,
        ProbekitError,
        ProbekitWarning,
        StoreError,
    )
    from probekit.hooks import record
    from probekit.planning import plan
    from probekit.store import verify
    from probekit.trace import Site, Trace, open_trace as open


_HOMES = {
    "CaptureError": ("probekit.errors", "CaptureError"),
    "ConfigError": ("probekit.errors", "ConfigError"),
    "PlanError": ("probekit.errors", "PlanError"),
    "ProbekitError": ("probekit.errors", "ProbekitError"),
    "ProbekitWarning": ("probekit.errors", "ProbekitWarning"),
    "Site": ("probekit.trace", "Site"),
    "StoreError": ("probekit.errors", "StoreError"),
    "Trace": ("probekit.trace", "Trace"),
    "compare": ("probekit.analysis", "compare"),
    "fit_readout": ("probekit.analysis", "fit_readout"),
    "lens": ("probekit.analysis", "lens"),
    "load_readout": ("probekit.analysis", "load_readout"),
    "open": ("probekit.trace", "open_trace"),
    "plan": ("probekit.planning", "plan"),
    "record": ("probekit.hooks", "record"),
    "run": ("probekit.capture", "run"),
    "verify": ("probekit.store", "verify"),
}

__all__ = [
    "CaptureError",
    "ConfigError",
    "PlanError",
    "ProbekitError",
    "ProbekitWarning",
    "Site",
    "StoreError",
    "Trace",
    "compare",
    "fit_readout",
    "lens",
    "load_readout",
    "open",
    "plan",
    "record",
    "run",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'probekit' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
