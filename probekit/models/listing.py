"""What `probekit modules` gives: a model's modules in the order they run.

Knows how a model is named here, and looks at its files before torch is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from probekit.config import ProbeConfig, load_config
from probekit.errors import raise_together
from probekit.models.files import missing_files
from probekit.stages import ARCHITECTURE, LIBRARIES, OnStage, unseen


def list_modules(
    model: str,
    *,
    match: str = "**",
    overrides: Sequence[str] = (),
    on_stage: OnStage = unseen,
) -> list[dict[str, Any]]:
    """List a model's modules in execution order, as plain JSON values.

    A module's parameters, buffers and settings are its own, not its children's. A setting has the
    name of the module's attribute, an epsilon of a norm `eps` whatever its attribute is called;
    infinities and NaN are text. Dtypes are those of a model made from the architecture.

    Args:
        model: a model's name, or the path of a config (.yaml) whose model is meant.
        match: a glob of module paths.
        overrides: `key=value` strings, as `--set` takes them.
        on_stage: told what begins, in a few words.

    Raises:
        ConfigError: the model cannot be had.
        PlanError: the glob matches nothing.
    """
    config = config_of(model, overrides)
    raise_together(missing_files(config, to_run=False))
    on_stage(LIBRARIES)
    # Not earlier: it imports torch, which takes seconds, and a typo has been told by now.
    from probekit.models.modulerows import rows_of

    on_stage(ARCHITECTURE)
    return rows_of(config, match)


def config_of(model: str, overrides: Sequence[str] = ()) -> ProbeConfig:
    """Make a config of a model's name, or load the one whose path is given."""
    source: str | dict[str, Any] = model
    if not model.endswith((".yaml", ".yml")):
        source = {
            "model": {"name": model},
            "inputs": {"random": {"examples": 1, "max_tokens": 8}},
            "execution_order": True,
            "store": {"path": "runs/modules"},
        }
    return load_config(source, overrides=overrides)
