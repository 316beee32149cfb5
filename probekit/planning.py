"""The plan: everything that is decided before weights load.

Knows how a config's probes meet a model's skeleton: which sites, of which shape and dtype, in which
shards, of how many bytes. What can be wrong with a config is found here; carrying the plan out takes
no decisions.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from probekit import families, models, schema, shards
from probekit.config import ProbeConfig, ProbeRule, RecordKind, load_config
from probekit.errors import ConfigError, Fault, PlanError, ProbekitError
from probekit.families import Sizes
from probekit.globs import match_paths, nearest
from probekit.inputs import Examples, Limits, read_examples
from probekit.schema import ALL_TOKENS, PER_EXAMPLE, ShardSpec, SiteSpec
from probekit.skeleton import BATCH, POSITION, TOKEN, Call, Skeleton, Slot, build_skeleton
from probekit.summary import summarize_modules

_MODULE_KINDS = ("output", "input")
_NAMED = 5  # so many modules are named in a message, the rest are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePlan:
    """One site: how it lies on disk, and where in the model it is read."""

    spec: SiteSpec
    call: int  # which call of the module in a forward pass
    axes: tuple[int | str, ...]  # of the tensor: sizes, BATCH, POSITION, TOKEN


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will record."""

    config: ProbeConfig
    skeleton: Skeleton
    dtype: torch.dtype  # the model computes in it
    sites: tuple[SitePlan, ...]
    examples: Examples | None  # None where only a plan was asked for and the tokenizer is missing
    shards: tuple[ShardSpec, ...]  # empty without examples
    tokenizer: Any  # None for random inputs on a model without one
    notes: tuple[str, ...]  # what the user should know before the run

    @cached_property
    def sizes(self) -> Sizes:
        """The model's sizes."""
        return families.sizes(self.skeleton.hf_config)

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
        return free_bytes(Path(self.config.store.path))

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
            "token_bytes": self.token_bytes,
            "total_bytes": self.total_bytes if known else None,
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
        }


def free_bytes(path: Path) -> int:
    """Give the free bytes of the disk a path lies on, or will lie on."""
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


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
    skeleton = build_skeleton(hf_config, dtype)
    notes: list[str] = []
    sites = resolve(config, skeleton, notes)
    examples, tokenizer = _read(config, skeleton, notes, inputs_needed=inputs_needed)
    if examples is None:
        planned: tuple[ShardSpec, ...] = ()
    else:
        _check_positions(config, sites, examples)
        planned = shards.split(examples, [s.spec for s in sites], config.store.shard_bytes)
    return Plan(
        config=config,
        skeleton=skeleton,
        dtype=dtype,
        sites=sites,
        examples=examples,
        shards=planned,
        tokenizer=tokenizer,
        notes=tuple(notes),
    )


# --- probes to sites


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """One module and record kind that a probe asks for."""

    module: str
    kind: RecordKind
    asked_by: str  # the pattern or portable name


def resolve(config: ProbeConfig, skeleton: Skeleton, notes: list[str]) -> tuple[SitePlan, ...]:
    """Turn the probes of a config into sites, in the order they are computed.

    Raises:
        PlanError: with every fault of every probe.
    """
    faults: list[Fault] = []
    found: dict[str, SitePlan] = {}
    for number, probe in enumerate(config.probes):
        where = f"probes[{number}]"
        try:
            layers = _layers(probe, skeleton)
        except ProbekitError as error:
            faults.append(Fault(config.where(f"{where}.layers"), str(error)))
            continue
        for wanted, key in _wanted(probe, skeleton, config.where(where), faults):
            sites = list(_sites_of(wanted, layers, probe, number, skeleton, config))
            refused = [s for s in sites if isinstance(s, str)]
            kept = [s for s in sites if isinstance(s, SitePlan)]
            if refused and not kept:
                faults.append(Fault(config.where(f"{where}.{key}"), _count(refused)))
            elif refused:
                notes.append(f"{config.where(f'{where}.{key}')}: left out: {_count(refused)}")
            if not sites:
                faults.append(
                    Fault(
                        config.where(f"{where}.layers"),
                        f"nothing that {wanted[0].asked_by} matches lies in these layers",
                    )
                )
            for site in kept:
                earlier = found.setdefault(site.spec.name, site)
                if earlier.spec.rows != site.spec.rows:
                    faults.append(
                        Fault(
                            config.where(f"{where}.positions"),
                            f"{site.spec.name} is asked for twice: with positions "
                            f"{earlier.spec.rows} by probes[{earlier.spec.probe}], and here with "
                            f"{site.spec.rows}; ask for it once",
                        )
                    )
    if faults:
        raise PlanError.of(faults)
    order = {(c.module, c.number): place for place, c in enumerate(skeleton.calls)}
    return tuple(sorted(found.values(), key=lambda s: order[s.spec.module, s.call]))


def _count(messages: Sequence[str]) -> str:
    rest = len(messages) - _NAMED
    return "; ".join(messages[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def _wanted(
    probe: ProbeRule, skeleton: Skeleton, where: str, faults: list[Fault]
) -> Iterator[tuple[list[_Wanted], str]]:
    """Give, for each pattern (or portable name) and record kind, the modules it means."""
    for pattern in probe.modules or ():
        try:
            paths = match_paths(pattern, tuple(skeleton.modules))
        except PlanError as error:
            faults.append(Fault(f"{where}.modules", str(error)))
            continue
        if not paths:
            faults.append(Fault(f"{where}.modules", _no_match(pattern, skeleton)))
            continue
        for record in probe.record:
            kind = RecordKind.parse(record)
            yield [_Wanted(module=p, kind=kind, asked_by=pattern) for p in paths], "modules"
    for name in probe.sites or ():
        try:
            places = families.places(skeleton.hf_config, name)
        except PlanError as error:
            faults.append(Fault(f"{where}.sites", str(error)))
            continue
        yield (
            [
                _Wanted(module=p.module, kind=RecordKind.parse(p.kind), asked_by=name)
                for p in places.values()
            ],
            "sites",
        )


def _layers(probe: ProbeRule, skeleton: Skeleton) -> frozenset[int] | None:
    """Give the layers a probe keeps; None for all.

    Raises:
        PlanError: if a layer does not exist.
    """
    if probe.layers == "all":
        return None
    n_layers = families.sizes(skeleton.hf_config).n_layers
    if n_layers is None:
        raise PlanError(f"{skeleton.model_class} does not say how many layers it has")
    asked = (probe.layers,) if isinstance(probe.layers, int) else probe.layers
    for layer in asked:
        assert isinstance(layer, int)
        if not -n_layers <= layer < n_layers:
            raise PlanError(
                f"layer {layer} is out of range for {skeleton.hf_config.model_type} "
                f"({n_layers} layers: 0..{n_layers - 1}, or -{n_layers}..-1)"
            )
    return frozenset(int(layer) % n_layers for layer in asked)


def layer_of(module: str) -> int | None:
    """Read the layer a module belongs to off its path; None outside the layers."""
    return next((int(part) for part in module.split(".") if part.isdigit()), None)


def _sites_of(
    wanted: Iterable[_Wanted],
    layers: frozenset[int] | None,
    probe: ProbeRule,
    number: int,
    skeleton: Skeleton,
    config: ProbeConfig,
) -> Iterator[SitePlan | str]:
    """Give the sites of some modules, or for each that cannot be recorded the reason."""
    for one in wanted:
        layer = layer_of(one.module)
        outside = layer is None and probe.sites is not None  # logits lie in no layer
        if layers is not None and layer not in layers and not outside:
            continue
        if one.kind.name not in _MODULE_KINDS:
            yield f"{one.module}: the record kind {one.kind.name} cannot be recorded yet"
            continue
        calls = skeleton.calls_of(one.module)
        if one.kind.call is not None:
            calls = calls[one.kind.call : one.kind.call + 1]
        if not calls:
            yield _never(one, skeleton)
        for call in calls:
            try:
                yield _site(call, one.kind, probe, number, skeleton, config)
            except PlanError as error:
                yield str(error)


def _never(one: _Wanted, skeleton: Skeleton) -> str:
    n_calls = len(skeleton.calls_of(one.module))
    if n_calls:
        return f"{one.module} runs {n_calls} times in a forward pass; there is no call {one.kind}"
    return (
        f"{one.module} ({skeleton.modules[one.module]}) never runs as a module in a forward pass, "
        "so there is nothing to record"
    )


def _site(
    call: Call,
    kind: RecordKind,
    probe: ProbeRule,
    number: int,
    skeleton: Skeleton,
    config: ProbeConfig,
) -> SitePlan:
    slot = _slot(call, kind)
    what = f"{call.module}/{kind}"
    per_token = _rows_are_tokens(slot, what)
    rows = shards.Choice.of(probe.positions).name if per_token else PER_EXAMPLE
    if not per_token and probe.positions != "all":
        raise PlanError(f"{what} has one row an example: positions do not apply to it")
    row_shape = tuple(a for a in slot.axes if isinstance(a, int))
    # output and output@0 are one site; later calls carry their number.
    numbered = replace(kind, call=call.number or None)
    names = families.portable_names(skeleton.hf_config)
    portable, _ = names.get(f"{call.module}/{numbered}", (None, None))
    asked = config.store.dtype
    cast = asked != "auto" and slot.dtype in schema.FLOATS
    return SitePlan(
        spec=SiteSpec(
            module=call.module,
            kind=str(numbered),
            rows=rows,
            axes=("token" if per_token else "example", *_axis_names(row_shape, skeleton)),
            row_shape=row_shape,
            dtype=asked if cast else slot.dtype,
            source_dtype=slot.dtype,
            layer=layer_of(call.module),
            portable=portable,
            module_class=call.module_class,
            probe=number,
        ),
        call=call.number,
        axes=slot.axes,
    )


def _slot(call: Call, kind: RecordKind) -> Slot:
    """Find the tensor a record kind means in a call.

    Raises:
        PlanError: if the call has no such tensor; the message says which it has.
    """
    slots = call.outputs if kind.name == "output" else call.inputs
    if kind.element is None and slots:
        return slots[0]
    for slot in slots:
        if kind.element is not None and kind.element in (str(slot.index), slot.key):
            return slot
    there = [f"{kind.name}.{s.key if s.key is not None else s.index}" for s in slots]
    bare = bool(slots) and slots[0].index is None and slots[0].key is None
    raise PlanError(
        f"{call.module} ({call.module_class}) has no tensor {kind}; "
        f"tensors there: {', '.join([kind.name] if bare else there) or 'none'}"
    )


def _rows_are_tokens(slot: Slot, what: str) -> bool:
    """Say whether a tensor has one row a token (True) or one an example (False).

    Raises:
        PlanError: if it has neither; the message says what its axes are.
    """
    if slot.dtype not in schema.DTYPES:
        raise PlanError(f"{what} is {slot.dtype}, which HDF5 has no type for")
    moving = sorted(a for a in slot.axes if isinstance(a, str))
    if moving in ([BATCH, POSITION], [TOKEN]):
        return True
    if moving == [BATCH]:
        return False
    shown = f"[{', '.join(str(a) for a in slot.axes)}]"
    if moving == [BATCH, POSITION, POSITION]:
        raise PlanError(f"{what} is {shown}, with two position axes; record: [pattern] keeps those")
    if moving in ([], [POSITION]):
        raise PlanError(f"{what} is {shown}, the same for every example: it has no token axis")
    raise PlanError(f"{what} is {shown}: no axis of it is the tokens'")


def _axis_names(row_shape: tuple[int, ...], skeleton: Skeleton) -> tuple[str, ...]:
    """Name the axes of a row after the model's sizes; an axis of another size is `d_<size>`."""
    sizes = families.sizes(skeleton.hf_config)
    last = {
        getattr(sizes, name): name
        for name in ("d_head", "d_vocab", "d_mlp", "d_model")
        if getattr(sizes, name) is not None
    }
    heads = {sizes.n_kv_heads: "kv_head", sizes.n_heads: "head"}
    names: list[str] = []
    for place, size in enumerate(row_shape):
        known = last if place == len(row_shape) - 1 else heads
        name = known.get(size, f"d_{size}")
        names.append(name if name not in names else f"{name}_{place + 1}")
    return tuple(names)


# --- inputs


def _read(
    config: ProbeConfig, skeleton: Skeleton, notes: list[str], *, inputs_needed: bool
) -> tuple[Examples | None, Any]:
    tokenizer, missing = _tokenizer(config)
    if tokenizer is None and config.inputs.random is None:
        if inputs_needed:
            raise missing
        notes.append(f"texts cannot be counted in tokens: {missing}")
        return None, None
    limits = _limits(config, skeleton, notes)
    encode = None if tokenizer is None else models.encoder(tokenizer)
    examples = read_examples(config, encode, limits)
    if examples.n_truncated:
        notes.append(
            f"{examples.n_truncated} of {len(examples)} texts are longer than {limits.n_tokens} "
            "tokens and are cut there (inputs.too_long: error refuses them instead)"
        )
    return examples, tokenizer


def _tokenizer(config: ProbeConfig) -> tuple[Any, ConfigError]:
    try:
        return models.load_tokenizer(config), ConfigError()
    except ConfigError as error:
        return None, error


def _limits(config: ProbeConfig, skeleton: Skeleton, notes: list[str]) -> Limits:
    sizes = families.sizes(skeleton.hf_config)
    asked, context = config.inputs.max_tokens, sizes.n_ctx
    if asked is not None and context is not None and asked > context:
        notes.append(
            f"{config.where('inputs.max_tokens')}: {asked} is more than the model's context; "
            f"{context} is used"
        )
    n_tokens = min((n for n in (asked, context) if n is not None), default=None)
    if sizes.d_vocab is None:
        raise PlanError(f"{skeleton.model_class} does not say how large its vocabulary is")
    return Limits(n_tokens=n_tokens, d_vocab=sizes.d_vocab, too_long=config.inputs.too_long)


def _check_positions(config: ProbeConfig, sites: Sequence[SitePlan], examples: Examples) -> None:
    """Refuse a position that some example does not have."""
    probe_of = {s.spec.rows: s.spec.probe for s in reversed(sites)}
    faults = []
    for rows, probe in probe_of.items():
        where = config.where(f"probes[{probe}].positions")
        try:
            if not shards.count_rows(examples.n_tokens, rows).sum():
                faults.append(Fault(where, f"no example is long enough to have rows at {rows}"))
        except IndexError as error:
            shortest = int(examples.n_tokens.argmin())
            faults.append(
                Fault(where, f"{error} (example {shortest}); a slice takes what there is")
            )
    if faults:
        raise PlanError.of(faults)


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
    skeleton = build_skeleton(hf_config, models.compute_dtype(config.model, hf_config))
    paths = match_paths(match, tuple(skeleton.modules))
    if not paths:
        raise PlanError(_no_match(match, skeleton))
    return summarize_modules(skeleton, paths)


def _no_match(pattern: str, skeleton: Skeleton) -> str:
    near = nearest(pattern, tuple(skeleton.modules))
    return (
        f"{pattern!r} matches no module of {skeleton.model_class}; the nearest: "
        f"{', '.join(near) or 'none'}. `probekit modules` lists them all"
    )
