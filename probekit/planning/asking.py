"""What `probekit plan` gives: a plan, after a look at all that needs no torch.

Knows the order of both; decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probekit import models
from probekit.config import ProbeConfig, load_config
from probekit.errors import PlanError
from probekit.planning.firstlook import look_ahead
from probekit.stages import LIBRARIES, OnStage, unseen

if TYPE_CHECKING:
    from probekit.models import AtHand
    from probekit.planning.planned import Plan


def given(
    config: str | Path | Mapping[str, Any] | ProbeConfig,
    model: Any = None,
    tokenizer: Any = None,
    *,
    overrides: Sequence[str] = (),
    digest: bool = True,
) -> tuple[ProbeConfig, AtHand | None]:
    """Load a config, and take the model that a call may give beside it.

    Raises:
        ConfigError: the config is wrong.
        PlanError: the model or its tokenizer is none, or the config says otherwise than the model.
    """
    if model is None:
        lone = {"tokenizer": tokenizer is not None, "digest=False": not digest}
        if alone := [name for name, is_there in lone.items() if is_there]:
            named = "; a config names its tokenizer in model.tokenizer" if tokenizer else ""
            raise PlanError(
                f"{alone[0]} goes with model=, a model in memory, which is not given{named}"
            )
        return load_config(config, overrides=overrides), None
    hand = models.at_hand(model, tokenizer, digest=digest)
    loaded = load_config(config, overrides=overrides, in_memory=hand.name)
    hand.check(loaded)
    return loaded, hand


def plan(
    config: str | Path | Mapping[str, Any] | ProbeConfig,
    *,
    model: Any = None,
    tokenizer: Any = None,
    overrides: Sequence[str] = (),
    on_stage: OnStage = unseen,
) -> Plan:
    """Say what a run would record, and how large it would be, without loading weights.

    Args:
        config: a YAML file's path, a mapping, or a config.
        model: a model in memory, as `run` takes it.
        tokenizer: that goes with the model.
        overrides: `key=value` strings, as `--set` takes them.
        on_stage: told what begins, in a few words, while libraries and files are loaded.

    Returns:
        The plan. Where the tokenizer is out of reach it knows the bytes of a token, no totals.

    Raises:
        ConfigError: the config is wrong, or its model or inputs cannot be had.
        PlanError: a probe cannot be carried out on this model.
        StoreError: something lies where the trace is to go.
    """
    config, hand = given(config, model, tokenizer, overrides=overrides)
    notes = look_ahead(config, at_hand=hand is not None)
    on_stage(LIBRARIES)
    # Not earlier: it imports torch, which takes seconds, and a typo has been told by now.
    from probekit.planning.making import make_plan

    try:
        with nullcontext() if hand is None else models.borrowed(hand):
            made = make_plan(config, hand=hand, inputs_needed=False, on_stage=on_stage)
    finally:
        models.forget_parsed()
    return replace(made, notes=(*made.notes, *notes)) if notes else made
