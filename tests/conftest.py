"""What every test shares: no network, two threads, draws that do not change from run to run."""

import json
import os
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings

from probekit import models

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# What lands depends on neither luck nor the machine's mood; `make test-slow` draws anew.
_SLOW: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, **_SLOW)
settings.register_profile("anew", derandomize=False, **_SLOW)
settings.load_profile("same")


class SkeletonsOnce:
    """Build the skeleton of an architecture once a process: a third of the time went there.

    Runs take it from here; tests of skeletons themselves import `probekit.models.skeleton`.
    """

    def __init__(self) -> None:
        self._built: dict[tuple[Any, ...], Any] = {}

    def __call__(self, hf_config: Any, dtype: Any, attention: str = "auto", **more: Any) -> Any:
        from probekit.models.skeleton import build_skeleton

        said = {**hf_config.to_dict(), "_name_or_path": ""}
        own = (type(hf_config), hf_config._attn_implementation, getattr(hf_config, "_own_code", 0))
        asked = (dtype, attention, *sorted(more.items()))
        key = (*own, json.dumps(said, sort_keys=True, default=repr), *asked)
        if key not in self._built:
            self._built[key] = build_skeleton(hf_config, dtype, attention, **more)
        return replace(self._built[key], hf_config=hf_config)


models.build_skeleton = SkeletonsOnce()  # type: ignore[assignment]
