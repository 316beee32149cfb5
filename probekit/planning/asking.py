"""What `probekit plan` gives: a plan, after a look at all that needs no torch.

Knows the order of both; decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probekit import models
from probekit.config import ProbeConfig, load_config
from probekit.planning.firstlook import look_ahead
from probekit.stages import LIBRARIES, OnStage, unseen

if TYPE_CHECKING:
    from probekit.planning.planned import Plan


def plan(
    config: str | Path | Mapping[str, Any] | ProbeConfig,
    *,
    overrides: Sequence[str] = (),
    on_stage: OnStage = unseen,
) -> Plan:
    """Say what a run would record, and how large it would be, without loading weights.

    Args:
        config: a YAML file's path, a mapping, or a config.
        overrides: `key=value` strings, as `--set` takes them.
        on_stage: told what begins, in a few words, while libraries and files are loaded.

    Returns:
        The plan. Where the tokenizer is out of reach it knows the bytes of a token, no totals.

    Raises:
        ConfigError: the config is wrong, or its model or inputs cannot be had.
        PlanError: a probe cannot be carried out on this model.
        StoreError: something lies where the trace is to go.
    """
    config = load_config(config, overrides=overrides)
    notes = look_ahead(config)
    on_stage(LIBRARIES)
    # Not earlier: it imports torch, which takes seconds, and a typo has been told by now.
    from probekit.planning.making import make_plan

    try:
        made = make_plan(config, inputs_needed=False, on_stage=on_stage)
    finally:
        models.forget_parsed()
    return replace(made, notes=(*made.notes, *notes)) if notes else made
