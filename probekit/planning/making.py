"""Making a plan: how a config's probes and inputs meet a model's skeleton.

Knows which sites there will be, of which shape and dtype, in which shards. What can be wrong with a
config is found here; carrying the plan out takes no decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from probekit import models
from probekit.config import ProbeConfig, Where, digest_of_format_1, faults_once
from probekit.errors import ConfigError, Fault, PlanError, StoreError
from probekit.inputs import (
    NO_SPOTS,
    Choices,
    Examples,
    Limits,
    Origin,
    find_spots,
    read_inputs,
    sealed_inputs,
    shards,
    tokenizing,
)
from probekit.models import AtHand, Skeleton, families
from probekit.models.forward import MIXED
from probekit.planning.codecs import codec_of, digest_of
from probekit.planning.outline import Outline, outline_at_hand, outline_of, stop_of
from probekit.planning.planned import Plan
from probekit.planning.resolve import Resolver, SitePlan
from probekit.stages import ARCHITECTURE, TEXTS, TOKENIZER, OnStage, unseen
from probekit.store import PER_EXAMPLE, ShardSpec, read_run
from probekit.wording import by_count, counted

_LONGEST = 1 << 20  # tokens of an example, where neither model nor config says


def make_plan(
    config: ProbeConfig,
    *,
    hand: AtHand | None = None,
    inputs_needed: bool = True,
    anew: bool = False,
    on_stage: OnStage = unseen,
) -> Plan:
    """Decide everything about a run, without weights.

    Args:
        config: what is asked for.
        hand: the model, borrowed, where a Python call gives it.
        inputs_needed: False for a look ahead: where the tokenizer is out of reach the plan then
            has bytes a token and no totals, instead of being an error.
        anew: read the inputs again, also where a run in `store.path` has sealed them.
        on_stage: told what begins.

    Raises:
        PlanError: if a probe cannot be carried out on this model; all such faults together.
        ConfigError: if the model, its tokenizer or the inputs cannot be had.
    """
    on_stage(ARCHITECTURE)
    hf_config = hand.hf_config if hand else models.load_hf_config(config, bundled=not inputs_needed)
    limits = _limits(config, hf_config)
    notes = _limit_notes(config, hf_config)
    n_keys = limits.n_tokens or _LONGEST
    outline = (
        outline_at_hand(config, hand, n_keys) if hand else outline_of(config, hf_config, n_keys)
    )
    _check_unused(config)
    _check_generation(config, outline)
    on_stage(TOKENIZER)
    tokenizer = hand.tokenizer if hand else None
    if tokenizer is None:
        tokenizer = _tokenizer(config, notes, needed=inputs_needed)
    origin = Origin(
        config=config,
        limits=limits,
        tokenizer=None if tokenizer is None else digest_of(config, tokenizer),
    )
    on_stage(TEXTS)
    prompts = examples = _examples(origin, tokenizer, notes, anew=anew, needed=inputs_needed)
    planned: tuple[ShardSpec, ...] = ()
    choices = NO_SPOTS
    if prompts is not None:
        extra = config.generate.max_new_tokens if config.generate else 0
        longest = int(prompts.n_tokens.max()) + extra
        _check_switching(config, outline.skeleton, outline.short, longest)
        if any(site.source.n_keys not in (0, longest) for site in outline.sites):
            # Attention rows are as wide as the longest example, which is known only now.
            sites = Resolver(config, outline.skeleton, longest).sites()
            outline = replace(outline, sites=sites)
        choices, of_spots = find_spots(config, prompts)
        notes += of_spots
        _check_positions(config, outline.sites, prompts, choices, extra)
        n_each = config.generate.n_each if config.generate else 1
        examples, choices = prompts.each(n_each), choices.each(n_each)
        planned = shards.split(
            examples.n_tokens + extra,
            [s.spec for s in outline.sites],
            config.store.shard_bytes,
            examples.string_bytes,
            examples.n_tokens,
            choices,
            together=config.generate.beams if config.generate else 1,
        )
    return Plan(
        config=config,
        at_hand=hand,
        skeleton=outline.skeleton,
        dtype=outline.dtype,
        attention=outline.attention,
        sites=outline.sites,
        stop=stop_of(config, outline),
        examples=examples,
        choices=choices,
        origin=origin,
        shards=planned,
        tokenizer=tokenizer,
        notes=(
            *models.trust_notes(config, hf_config),
            *outline.notes,
            *notes,
            *_company_notes(hf_config, outline.skeleton),
        ),
    )


def _check_generation(config: ProbeConfig, outline: Outline) -> None:
    """Refuse what cannot be recorded while tokens are generated."""
    if config.generate is None:
        return
    faults = []
    if config.generate.unused and not _is_begun(config):
        faults += [
            Fault(config.where(f"generate.{key}"), why)
            for key, why in config.generate.unused.items()
        ]
    if outline.no_generation:
        faults.append(Fault(config.where("generate"), outline.no_generation))
    if outline.skeleton.adds_tokens:
        reason = "reads other tokens than it was given while it generates: they are no row's"
        faults.append(Fault(config.where("generate"), f"{outline.skeleton.model_class} {reason}"))
    d_vocab = families.sizes(outline.skeleton.hf_config).d_vocab
    beams = config.generate.beams
    if beams > 1 and d_vocab is not None and beams >= d_vocab:
        faults.append(
            Fault(
                config.where("generate.beams"),
                f"given {beams:,}, and the model's vocabulary has {counted(d_vocab, 'token')}: "
                "expected fewer beams than that",
            )
        )
    for site in outline.sites:
        if site.choice == PER_EXAMPLE and beams == 1:
            faults.append(
                Fault(
                    config.where(f"probes[{site.spec.probe}]"),
                    f"{site.spec.name} has one row an example in every forward pass, and many "
                    "passes generate: there is no one row to keep",
                )
            )
    if faults:
        raise PlanError.of(faults_once(faults))


def _check_unused(config: ProbeConfig) -> None:
    """Refuse a setting that nothing uses."""
    faults = [
        *(Fault(config.where(f"inputs.{key}"), why) for key, why in config.inputs.unused.items()),
        *(
            Fault(config.where(f"probes[{number}].{key}"), why)
            for number, probe in enumerate(config.probes)
            for key, why in probe.unused.items()
        ),
    ]
    if faults and not _is_begun(config):
        raise PlanError.of(faults)


def _is_begun(config: ProbeConfig) -> bool:
    """Say whether the run was begun, when a setting that nothing uses was no mistake yet."""
    try:
        run = read_run(config.store.folder)
    except StoreError:
        return False
    digests = (config.digest, digest_of_format_1(config))
    return run is not None and run["identity"].get("config_digest") in digests


# --- inputs


def _examples(
    origin: Origin, tokenizer: Any, notes: list[str], *, anew: bool, needed: bool
) -> Examples | None:
    """Read the inputs; None where they need a tokenizer that is out of reach, or a run."""
    config = origin.config
    if tokenizer is None and config.inputs.needs_tokenizer:
        return None
    codec = codec_of(origin, tokenizer, notes)
    sealed_in = None if anew else config.store.folder
    if config.inputs.is_streamed and not needed:
        known, more = sealed_inputs(origin, sealed_in)
        notes += more
        if known is None:
            notes.append(
                f"{config.where('inputs.dataset.streaming')}: the texts are read once, by the run: "
                "how many they are is known then; inputs.dataset.streaming=false reads them now"
            )
            return None
    examples, more = read_inputs(origin, codec, sealed_in=sealed_in)
    notes += more
    if not examples.has_spans and config.inputs.needs_tokenizer:
        notes.append(
            f"the tokenizer ({type(tokenizer).__name__}) does not say which characters a token "
            "covers: the trace has no tokens/char_start and char_end"
        )
    if examples.documents is not None:
        n_documents = int(examples.documents[-1]) + 1
        pieces = by_count(len(examples), "is an example", "are the examples")
        notes.append(
            f"{counted(len(examples), 'piece')} of {counted(n_documents, 'document')} {pieces} "
            "(inputs.too_long: split)"
        )
    if examples.n_truncated and origin.limits.n_tokens is not None:
        be = by_count(examples.n_truncated, "is", "are")
        noun = "text" if config.inputs.tokens is None else "example"
        notes.append(
            f"{counted(examples.n_truncated, noun, of=len(examples))} {be} longer than "
            f"{counted(origin.limits.n_tokens, 'token')} and {be} cut "
            f"there{_said_cut(examples)} "
            "(inputs.too_long: error refuses them instead)"
        )
    return examples


def _said_cut(examples: Examples) -> str:
    about = "about " if examples.is_about else ""
    return f", {about}{counted(examples.n_cut, 'token')} in all" if examples.n_cut else ""


def _tokenizer(config: ProbeConfig, notes: list[str], *, needed: bool) -> Any:
    """Load the tokenizer; None where it is out of reach, and these inputs or a plan need none."""
    try:
        return tokenizing.load_tokenizer(config)
    except ConfigError as missing:
        if config.inputs.needs_tokenizer:
            if needed:
                raise
            notes.append(f"texts cannot be counted in tokens: {missing}")
        elif config.inputs.tokens is not None:
            notes.append(
                f"{config.where('inputs.tokens')}: there is no tokenizer that says what these "
                "read as: the examples have no text"
            )
        return None


def _limits(config: ProbeConfig, hf_config: Any) -> Limits:
    sizes = families.sizes(hf_config)
    room = sizes.n_ctx
    if config.generate is not None and room is not None:
        room -= config.generate.max_new_tokens
        if room < 1:
            raise PlanError(
                f"{config.where('generate.max_new_tokens')}: {config.generate.max_new_tokens} new "
                f"tokens leave no room for a text in the model's context of {sizes.n_ctx}"
            )
    n_tokens = min((n for n in (config.inputs.max_tokens, room) if n is not None), default=None)
    if sizes.d_vocab is None:
        where = config.where("model.name")
        kind = models.model_class(hf_config, where)
        raise PlanError(
            f"{where}: the config of {config.model.name} says no vocabulary size"
            f"{models.instead_of_tokens(hf_config, kind)}"
        )
    return Limits(n_tokens=n_tokens, d_vocab=sizes.d_vocab, too_long=config.inputs.too_long)


def _limit_notes(config: ProbeConfig, hf_config: Any) -> list[str]:
    asked, context = config.inputs.max_tokens, families.sizes(hf_config).n_ctx
    if asked is None or context is None or asked <= context:
        return []
    where = config.where("inputs.max_tokens")
    return [f"{where}: {asked} is more than the model's context; {context} is used"]


def _check_switching(
    config: ProbeConfig, skeleton: Skeleton, short: int | None, longest: int
) -> None:
    if short is not None and longest > short:
        raise PlanError(
            f"{config.where('model.name')}: {skeleton.model_class} takes other modules for texts "
            f"of more than {counted(short, 'token')}, and the longest here has {longest:,}: set "
            f"inputs.max_tokens: {short}"
        )


def _company_notes(hf_config: Any, skeleton: Skeleton) -> list[str]:
    mixing = [path for path, mixture in skeleton.mixtures.items() if mixture.mixes_tokens]
    if mixing:
        return [f"{mixing[0]} ({skeleton.modules[mixing[0]]}): {MIXED}: every text runs alone"]
    if not models.depends_on_longest(hf_config):
        return []
    return [
        f"the rotary embeddings of {skeleton.model_class} are dynamic, they stretch with the "
        "longest text of a batch: texts of one length run together, without padding"
    ]


def _check_positions(
    config: ProbeConfig,
    sites: Sequence[SitePlan],
    examples: Examples,
    choices: Choices,
    n_new: int,
) -> None:
    """Refuse a position that some example does not have, and a pool over no token."""
    faults = {}
    for site in sites:
        where = config.where(f"probes[{site.spec.probe}].positions")
        try:
            counts = choices.counts(site.choice, examples.n_tokens + n_new, examples.n_tokens)
        except IndexError as error:
            faults[where] = f"{error} {_said_short(examples, site.choice)}"
            continue
        if not counts.any():
            faults[where] = f"no example is long enough to have rows at {site.choice}"
        elif site.recipe.pool is not None and not counts.all():
            assert site.spec.probe is not None  # of a site that is planned
            spot, lost = config.probes[site.spec.probe].positions, int(counts.argmin())
            # Where a spot is nowhere, only missing: skip leads here.
            at = f"{spot} (missing: skip)" if isinstance(spot, Where) else site.choice
            faults[where] = f"example {lost} has no token at {at}; a pool needs one of each example"
    if faults:
        raise PlanError.of(Fault(where, message) for where, message in faults.items())


def _said_short(examples: Examples, choice: str) -> str:
    """Say which example a position is missing in, and what takes it where it is there."""
    shortest = int(examples.n_tokens.argmin())
    advice = "a slice takes what there is"
    if choice.removeprefix("-").isdecimal():
        end = int(choice) + 1
        advice = f'write "{choice}:{end or ""}" to take it where it is there'
    return f"(example {shortest}, 0 to {int(examples.n_tokens[shortest]) - 1}); {advice}"
