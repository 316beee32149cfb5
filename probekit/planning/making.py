"""The plan: everything that is decided before weights load.

Knows how a config's probes meet a model's skeleton: which sites, of which shape and dtype, in
which shards, of how many bytes. What can be wrong with a config is found here; carrying the plan
out takes no decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from probekit import models
from probekit.config import ProbeConfig, load_config, match_paths, no_match
from probekit.errors import ConfigError, Fault, PlanError
from probekit.inputs import Examples, Limits, read_examples, shards, tokenizing
from probekit.models import Sizes, Skeleton, build_skeleton, families
from probekit.planning import space as room
from probekit.planning.resolve import Resolver, SitePlan, moment
from probekit.planning.sources import Source
from probekit.store import ALL_TOKENS, ShardSpec, SiteSpec
from probekit.trace import summarize_modules

_LONGEST = 1 << 20  # tokens of an example, where neither model nor config says


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will record."""

    config: ProbeConfig
    skeleton: Skeleton
    dtype: torch.dtype  # the model computes in it
    attention: str  # the kernel to load the model with, as a config says it
    sites: tuple[SitePlan, ...]
    stop: Source | None  # a forward pass ends after it; None: it runs to its end
    examples: Examples | None  # None where only a plan was asked for and the tokenizer is missing
    shards: tuple[ShardSpec, ...]  # empty without examples
    tokenizer: Any  # None for random inputs on a model without one
    notes: tuple[str, ...]  # what the user should know before the run

    @cached_property
    def sizes(self) -> Sizes:
        """The model's sizes."""
        return families.sizes(self.skeleton.hf_config)

    @property
    def length_border(self) -> int | None:
        """The length above which the model computes short texts in a batch otherwise.

        Rotary embeddings of the kind "longrope" (Phi-3 128k) take other factors as soon as the
        longest text of a batch is longer than this.
        """
        text = self.skeleton.hf_config.get_text_config()
        rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
        if rope.get("rope_type", rope.get("type")) != "longrope":
            return None
        own = getattr(text, "original_max_position_embeddings", None)
        return rope.get("original_max_position_embeddings", own)

    @property
    def logits_to_keep(self) -> int:
        """Positions whose logits a whole pass computes, from the last on; 0 for all of them.

        Where nothing looks at the logits a pass still runs to its end for the execution order, but
        the output head, half the arithmetic of a small model, need not run on every token.
        """
        whole = self.stop is not None or not self.config.early_stop or bool(self.config.generate)
        seen = any(site.source.module in ("", self.skeleton.head) for site in self.sites)
        return 0 if whole or seen or "logits_to_keep" not in self.skeleton.arguments else 1

    @property
    def total_bytes(self) -> int:
        """Bytes of all rows of all sites."""
        return sum(self.site_bytes(site.spec) for site in self.sites)

    @property
    def token_bytes(self) -> int:
        """Bytes that one token adds, over the sites that keep every token."""
        return sum(s.spec.row_bytes for s in self.sites if s.spec.rows == ALL_TOKENS)

    @property
    def free_bytes(self) -> int:
        """Free bytes where the trace will lie."""
        return room.free_bytes(Path(self.config.store.path))

    @property
    def needed_bytes(self) -> int | None:
        """Bytes still to be written, shards that are sealed left out; None without examples."""
        return None if self.examples is None else room.left_bytes(self)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the run would be refused: a disk that is too small."""
        short = room.shortage(self) if self.examples is not None else None
        return () if short is None else (short,)

    def site_rows(self, spec: SiteSpec) -> int:
        """Count the rows of a site in the whole trace."""
        return sum(shard.n_rows[spec.rows] for shard in self.shards)

    def site_bytes(self, spec: SiteSpec) -> int:
        """Count the bytes of a site in the whole trace."""
        return self.site_rows(spec) * spec.row_bytes

    def to_json(self) -> dict[str, Any]:
        """Give the plan as plain JSON values; see the README for what each means."""
        known = self.examples is not None
        return {
            "model": self.config.model.name,
            "model_class": self.skeleton.model_class,
            "n_parameters": self.skeleton.n_parameters,
            "dtype": str(self.dtype).removeprefix("torch."),
            "n_examples": len(self.examples) if self.examples is not None else None,
            "n_tokens": self.examples.total_tokens if self.examples is not None else None,
            "n_shards": len(self.shards) if known else None,
            "stops_after": self.stop.module if self.stop else None,
            "token_bytes": self.token_bytes,
            "total_bytes": self.total_bytes if known else None,
            "needed_bytes": self.needed_bytes,
            "free_bytes": self.free_bytes,
            "sites": [
                {
                    "name": s.spec.name,
                    "axes": list(s.spec.axes),
                    "rows": self.site_rows(s.spec) if known else None,
                    "row_shape": list(s.spec.row_shape),
                    "dtype": s.spec.dtype,
                    "row_bytes": s.spec.row_bytes,
                    "bytes": self.site_bytes(s.spec) if known else None,
                    "layer": s.spec.layer,
                    "portable": s.spec.portable,
                }
                for s in self.sites
            ],
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


def plan(
    config: str | Path | Mapping[str, Any] | ProbeConfig, *, overrides: Sequence[str] = ()
) -> Plan:
    """Say what a run would record, and how large it would be, without loading weights.

    Args:
        config: a YAML file's path, a mapping, or a config.
        overrides: `key=value` strings, as `--set` takes them.

    Returns:
        The plan. Where the tokenizer is out of reach it knows the bytes of a token, no totals.

    Raises:
        ConfigError: the config is wrong, or its model or inputs cannot be had.
        PlanError: a probe cannot be carried out on this model.
    """
    return make_plan(load_config(config, overrides=overrides), inputs_needed=False)


def make_plan(config: ProbeConfig, *, inputs_needed: bool = True) -> Plan:
    """Decide everything about a run, without weights.

    Args:
        config: what is asked for.
        inputs_needed: False for a look ahead: where the tokenizer is out of reach the plan then
            has bytes a token and no totals, instead of being an error.

    Raises:
        PlanError: if a probe cannot be carried out on this model; all such faults together.
        ConfigError: if the model, its tokenizer or the inputs cannot be had.
    """
    hf_config = models.load_hf_config(config, bundled=not inputs_needed)
    dtype = models.compute_dtype(config.model, hf_config)
    limits = _limits(config, hf_config)
    notes = _limit_notes(config, hf_config)
    outline = _outline(config, hf_config, dtype, limits.n_tokens or _LONGEST)
    _check_generation(config, outline)
    examples, tokenizer = _read(config, limits, notes, inputs_needed=inputs_needed)
    planned: tuple[ShardSpec, ...] = ()
    if examples is not None:
        extra = config.generate.max_new_tokens if config.generate else 0
        longest = int(examples.n_tokens.max()) + extra
        if any(site.source.n_keys not in (0, longest) for site in outline.sites):
            # Attention rows are as wide as the longest example, which is known only now.
            sites = Resolver(config, outline.skeleton, longest).sites()
            outline = replace(outline, sites=sites)
        _check_positions(config, outline.sites, examples)
        planned = shards.split(
            examples.n_tokens + extra,
            [s.spec for s in outline.sites],
            config.store.shard_bytes,
            examples.string_bytes,
        )
    return Plan(
        config=config,
        skeleton=outline.skeleton,
        dtype=dtype,
        attention=outline.attention,
        sites=outline.sites,
        stop=_stop(config, outline),
        examples=examples,
        shards=planned,
        tokenizer=tokenizer,
        notes=(*models.trust_notes(config, hf_config), *outline.notes, *notes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outline:
    """What is known without the inputs."""

    skeleton: Skeleton
    attention: str  # the kernel to load the model with
    sites: tuple[SitePlan, ...]
    notes: tuple[str, ...]


def _outline(config: ProbeConfig, hf_config: Any, dtype: torch.dtype, n_keys: int) -> _Outline:
    asked = config.model.attention
    skeleton = build_skeleton(hf_config, dtype, asked)
    resolver = Resolver(config, skeleton, n_keys)
    try:
        sites, attention, notes = resolver.sites(), asked, resolver.notes
    except PlanError:
        if not resolver.needs_eager or asked != "auto":
            raise
        skeleton = build_skeleton(hf_config, dtype, "eager")
        resolver = Resolver(config, skeleton, n_keys)
        sites, attention = resolver.sites(), "eager"
        notes = [
            f"{skeleton.model_class} does not use transformers' attention interface: it runs with "
            "eager attention here, which shows its patterns",
            *resolver.notes,
        ]
    return _Outline(skeleton=skeleton, attention=attention, sites=sites, notes=tuple(notes))


def _stop(config: ProbeConfig, outline: _Outline) -> Source | None:
    """Find the source after which nothing more is needed of a forward pass; None to run it all."""
    if not config.early_stop or config.generate or config.execution_order is True:
        return None
    if not outline.sites:
        return None
    last = max((s.source for s in outline.sites), key=lambda s: moment(outline.skeleton, s))
    return last if last.module else None  # the model's own output is the end anyway


def _check_generation(config: ProbeConfig, outline: _Outline) -> None:
    """Refuse what cannot be recorded while tokens are generated."""
    if config.generate is None:
        return
    faults = []
    if not models.model_class(outline.skeleton.hf_config).can_generate():
        faults.append(
            Fault(config.where("generate"), f"{outline.skeleton.model_class} does not generate")
        )
    for site in outline.sites:
        if site.spec.rows != ALL_TOKENS:
            faults.append(
                Fault(
                    config.where(f"probes[{site.spec.probe}]"),
                    f"{site.spec.name}: while tokens are generated every token is kept; "
                    "take positions, pools and sites of one row an example from the trace",
                )
            )
    if faults:
        raise PlanError.of(faults)


# --- inputs


def _read(
    config: ProbeConfig, limits: Limits, notes: list[str], *, inputs_needed: bool
) -> tuple[Examples | None, Any]:
    tokenizer, missing = _tokenizer(config)
    if tokenizer is None and config.inputs.random is None:
        if inputs_needed:
            raise missing
        notes.append(f"texts cannot be counted in tokens: {missing}")
        return None, None
    encode = None if tokenizer is None else tokenizing.encoder(tokenizer)
    examples = read_examples(config, encode, limits)
    if examples.n_truncated:
        notes.append(
            f"{examples.n_truncated} of {len(examples)} texts are longer than {limits.n_tokens} "
            "tokens and are cut there (inputs.too_long: error refuses them instead)"
        )
    return examples, tokenizer


def _tokenizer(config: ProbeConfig) -> tuple[Any, ConfigError]:
    try:
        return tokenizing.load_tokenizer(config), ConfigError()
    except ConfigError as error:
        return None, error


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
        raise PlanError(f"model.name: the config of {config.model.name} says no vocabulary size")
    return Limits(n_tokens=n_tokens, d_vocab=sizes.d_vocab, too_long=config.inputs.too_long)


def _limit_notes(config: ProbeConfig, hf_config: Any) -> list[str]:
    asked, context = config.inputs.max_tokens, families.sizes(hf_config).n_ctx
    if asked is None or context is None or asked <= context:
        return []
    where = config.where("inputs.max_tokens")
    return [f"{where}: {asked} is more than the model's context; {context} is used"]


def _check_positions(config: ProbeConfig, sites: Sequence[SitePlan], examples: Examples) -> None:
    """Refuse a position that some example does not have, and a pool over no token."""
    faults = {}
    for site in sites:
        where = config.where(f"probes[{site.spec.probe}].positions")
        try:
            counts = shards.count_rows(examples.n_tokens, site.choice)
        except IndexError as error:
            shortest = int(examples.n_tokens.argmin())
            faults[where] = f"{error} (example {shortest}); a slice takes what there is"
            continue
        if not counts.any():
            faults[where] = f"no example is long enough to have rows at {site.choice}"
        elif site.recipe.pool is not None and not counts.all():
            faults[where] = (
                f"example {int(counts.argmin())} has no token at {site.choice}; a pool needs one"
            )
    if faults:
        raise PlanError.of(Fault(where, message) for where, message in faults.items())


def list_modules(
    model: str, *, match: str = "**", overrides: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """List a model's modules in execution order, as plain JSON values.

    Args:
        model: a model's name, or the path of a config (.yaml) whose model is meant.
        match: a glob of module paths.
        overrides: `key=value` strings, as `--set` takes them.

    Raises:
        ConfigError: the model cannot be had.
        PlanError: the glob matches nothing.
    """
    source: str | dict[str, Any] = model
    if not model.endswith((".yaml", ".yml")):
        source = {
            "model": {"name": model},
            "inputs": {"random": {"examples": 1, "max_tokens": 8}},
            "execution_order": True,
            "store": {"path": "runs/modules"},
        }
    config = load_config(source, overrides=overrides)
    hf_config = models.load_hf_config(config, bundled=True)
    dtype = models.compute_dtype(config.model, hf_config)
    skeleton = build_skeleton(hf_config, dtype, config.model.attention)
    paths = match_paths(match, tuple(skeleton.modules))
    if not paths:
        raise PlanError(no_match(match, skeleton.modules, skeleton.model_class))
    return summarize_modules(skeleton, paths)
