"""The old place of `probekit.verify`, which is a function now; this file goes with 0.2."""

import sys
import warnings

from probekit.store import verify

warnings.warn(
    "probekit.verify is a function now: call probekit.verify(path)",
    DeprecationWarning,
    stacklevel=2,
)
sys.modules[__name__] = verify  # type: ignore[assignment]
