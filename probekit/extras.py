"""Libraries that only some parts of probekit need: loaded when they are used, or asked for by name.

Knows which extra of the package installs what; nothing of what they are for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from probekit.errors import ProbekitError


def load_extra(module: str, *, extra: str, purpose: str) -> Any:
    """Import a module of an optional library.

    Args:
        module: "pandas", "matplotlib.figure".
        extra: the extra of probekit that installs the library.
        purpose: what it is needed for, the beginning of the message.

    Raises:
        ProbekitError: if the library is not installed; the message says how to install it.
    """
    library = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != library:
            raise  # it is there, and something that it needs itself is not
        raise ProbekitError(
            f"{purpose} needs {library}, which is not installed; pip install 'probekit[{extra}]'"
        ) from error
