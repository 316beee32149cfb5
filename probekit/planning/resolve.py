"""Probes to sites: how the rules of a config meet the modules of a model's skeleton.

Knows globs, portable names and record kinds; nothing of inputs or files. Whatever cannot be
recorded is refused here, with the reason, before weights load.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import einops
import torch

from probekit.config import (
    MAX_EDGES,
    RECORD_KINDS,
    ProbeConfig,
    ProbeRule,
    RecordKind,
    Where,
    compile_glob,
    faults_once,
    match_paths,
    no_match,
    parse_slice,
    portable_like,
    said_once,
    unmatched_choices,
)
from probekit.errors import SHOWN, Fault, PlanError, ProbekitError
from probekit.inputs import GENERATED, PROMPT, Choice
from probekit.models import Skeleton, families, layer_of, names_inside, places_inside
from probekit.models.forward import EXPERT_KINDS, expert_blocks, expert_names
from probekit.planning.expertkinds import find
from probekit.planning.recipe import Einops, Recipe, einops_step, right_axes
from probekit.planning.tensors import (
    BLOCK_KINDS,
    KEY_KINDS,
    LOGIT_KINDS,
    Found,
    OnlyEagerError,
    Source,
)
from probekit.store import ALL_TOKENS, PER_EXAMPLE, SiteSpec, schema
from probekit.wording import by_count, counted, shorten

_NAMED = 5  # so many modules are named in a message, the rest are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePlan:
    """One site: how it lies on disk, where in the model it is read, and what is done to it."""

    spec: SiteSpec
    source: Source
    choice: str  # of positions, taken before the recipe; PER_EXAMPLE where there are none
    recipe: Recipe
    part: int  # which of the recipe's tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What one pattern (or portable name) of a probe asks for, with one record kind."""

    places: tuple[tuple[str, RecordKind, float], ...]  # module paths, kinds and factors
    asked_by: str
    key: str  # "modules" or "sites"


class _KeyOfProbeError(PlanError):
    """A key of a probe does not fit a tensor, and it is not the one that names the tensor."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key  # "heads", "neurons", "einops" or "k"


class Resolver:
    """Turns the probes of a config into sites.

    Args:
        config: whose probes.
        skeleton: of the model.
        n_keys: tokens of the longest example: how wide attention rows are.
    """

    def __init__(self, config: ProbeConfig, skeleton: Skeleton, n_keys: int) -> None:
        self._config = config
        self._skeleton = skeleton
        self._n_keys = n_keys
        self._faults: list[Fault] = []
        self._found: dict[str, SitePlan] = {}
        self._clashes: list[Fault] = []  # sites that two probes ask for in different ways
        self._n_edges = 0  # of all patterns so far
        self.notes: list[str] = []  # what was left out, and why
        self.needs_eager = False  # an asked-for pattern shows only under eager attention

    def sites(self) -> tuple[SitePlan, ...]:
        """Give all sites, in the order they are computed.

        Raises:
            PlanError: with every fault of every probe.
        """
        for number, probe in enumerate(self._config.probes):
            where = f"probes[{number}]"
            try:
                layers = self._layers(probe)
            except ProbekitError as error:
                self._fault(f"{where}.layers", str(error))
                continue
            for wanted in self._wanted(probe, where):
                self._resolve(wanted, probe, number, layers)
        if faults := faults_once([*self._faults, *self._clashes]):
            raise PlanError.of(faults)
        return tuple(sorted(self._found.values(), key=lambda s: moment(self._skeleton, s.source)))

    def _fault(self, key: str, message: str) -> None:
        self._faults.append(Fault(self._config.where(key), message))
        if len(self._faults) > SHOWN:  # looking for what was meant takes time, for each anew
            raise PlanError.of(faults_once(self._faults))

    def _wanted(self, probe: ProbeRule, where: str) -> Iterator[_Wanted]:
        records = [RecordKind.parse(record) for record in probe.record]
        for pattern in probe.modules or ():
            try:
                paths = self._matched(pattern)
            except PlanError as error:
                self._fault(f"{where}.modules", str(error))
                continue
            for kind in records:
                places = tuple((path, kind, 1.0) for path in paths)
                yield _Wanted(places=places, asked_by=pattern, key="modules")
        for name in probe.sites or ():
            for kind in records:
                try:
                    places = self._places(name, kind)
                except PlanError as error:
                    self._fault(f"{where}.sites", str(error))
                    continue
                yield _Wanted(places=places, asked_by=name, key="sites")

    def _matched(self, pattern: str) -> tuple[str, ...]:
        """Give the modules a pattern matches; refuse one that matches none, or with a choice."""
        self._n_edges += compile_glob(pattern).n_edges
        if self._n_edges > MAX_EDGES:
            raise PlanError(
                f"the patterns have more than {MAX_EDGES:,} choices and segments; use * or **"
            )
        there = tuple(self._skeleton.modules)
        paths = match_paths(pattern, there)
        if not paths and (advice := _no_pattern(pattern)):
            raise PlanError(f"{shorten(pattern)!r} {advice}")
        if not paths:
            raise PlanError(no_match(pattern, there, self._skeleton.model_class))
        if lost := unmatched_choices(pattern, there):
            verb = by_count(len(lost), "matches", "match")
            said = f"{len(lost):,} of its choices {verb} no module: {_listed(said_once(lost))}"
            raise PlanError(f"{pattern!r}: {said}")
        return paths

    def _places(self, name: str, kind: RecordKind) -> tuple[tuple[str, RecordKind, float], ...]:
        """Find a portable name; it says itself what is recorded, but for what derives of logits."""
        skeleton = self._skeleton
        if kind.name == "output" and name in EXPERT_KINDS:
            blocks = expert_blocks(skeleton.mixtures, name, skeleton.model_class).values()
            return tuple((block, RecordKind(name=name), 1.0) for block in blocks)
        if kind.name == "output":
            found = places_inside(
                skeleton.hf_config, name, skeleton.modules, skeleton.model_class
            ).values()
            return tuple((p.module, RecordKind.parse(p.kind), p.factor) for p in found)
        if name != "logits" or self._skeleton.head is None:
            raise PlanError(
                f"{kind} goes with the portable name logits, given {name}; "
                "elsewhere name the module: `modules:` with `record: [top_k]`"
            )
        return ((self._skeleton.head, kind, 1.0),)

    def _layers(self, probe: ProbeRule) -> frozenset[int] | None:
        """Give the layers a probe keeps; None for all."""
        if probe.layers == "all":
            return None
        n_layers = families.sizes(self._skeleton.hf_config).n_layers
        if n_layers is None:
            raise PlanError(f"{self._skeleton.model_class} does not say how many layers it has")
        if isinstance(probe.layers, str):
            kept = range(n_layers)[parse_slice(probe.layers)]
            if not kept:
                raise PlanError(f"{probe.layers} keeps none of {counted(n_layers, 'layer')}")
            return frozenset(kept)
        for layer in probe.layers:
            if not -n_layers <= int(layer) < n_layers:
                raise PlanError(
                    f"layer {layer} is out of range for {self._skeleton.hf_config.model_type} "
                    f"({counted(n_layers, 'layer')}: 0..{n_layers - 1}, or -{n_layers}..-1)"
                )
        return frozenset(int(layer) % n_layers for layer in probe.layers)

    def _resolve(
        self, wanted: _Wanted, probe: ProbeRule, number: int, layers: frozenset[int] | None
    ) -> None:
        where = f"probes[{number}].{wanted.key}"
        kept: list[SitePlan] = []
        refused: list[str] = []
        keys = set()  # that the refusals are about
        in_layers = [
            (module, kind, factor)
            for module, kind, factor in wanted.places
            if layers is None
            or layer_of(module) in layers
            or (layer_of(module) is None and wanted.key == "sites")  # logits lie in no layer
        ]
        for module, kind, factor in in_layers:
            try:
                for found in find(self._skeleton, module, kind, self._n_keys, factor):
                    kept += self._sites_of(found, probe, number)
            except PlanError as error:
                refused.append(str(error))
                keys.add(error.key if isinstance(error, _KeyOfProbeError) else wanted.key)
                self.needs_eager |= isinstance(error, OnlyEagerError)
        if not in_layers:
            lies = any(layer_of(module) is not None for module, _, _ in wanted.places)
            why = "has no module there" if lies else "is in no layer; leave layers out"
            self._fault(f"probes[{number}].layers", f"{wanted.asked_by} {why}")
        elif not kept:
            key = keys.pop() if len(keys) == 1 else wanted.key
            self._fault(f"probes[{number}].{key}", _listed(said_once(refused)))
        elif refused:
            left_out = _listed(said_once(refused))
            self.notes.append(f"{self._config.where(where)}: left out: {left_out}")
        for site in kept:
            self._add(site, number)

    def _add(self, site: SitePlan, number: int) -> None:
        earlier = self._found.setdefault(site.spec.name, site)
        if (earlier.choice, earlier.recipe, earlier.source) != (
            site.choice,
            site.recipe,
            site.source,
        ):
            message = (
                f"{site.spec.name} is asked for twice in different ways: by "
                f"probes[{earlier.spec.probe}] with {_ways(earlier)}, and here with "
                f"{_ways(site)}; ask for it once"
            )
            self._clashes.append(Fault(self._config.where(f"probes[{number}]"), message))

    def _sites_of(self, found: Found, probe: ProbeRule, number: int) -> list[SitePlan]:
        """Build the sites of one tensor; two for `top_k`.

        Raises:
            PlanError: if the probe's choices do not fit the tensor.
        """
        if not found.per_token and (probe.positions != "all"):
            raise PlanError(f"{found.name} has one row an example: positions do not apply to it")
        choice = self._choice(probe, found)
        found, recipe = self._recipe(found, probe)
        axes, parts = _after(found, recipe)
        portable, _ = self._portable_names.get(f"{found.module}/{found.kind}", (None, None))
        return [
            SitePlan(
                spec=SiteSpec(
                    module=found.module,
                    kind=f"{found.kind}.{name}" if name else found.kind,
                    rows=PER_EXAMPLE if recipe.pool else choice,
                    axes=(PER_EXAMPLE if recipe.pool or not found.per_token else "token", *axes),
                    row_shape=tuple(part.shape[1:]),
                    dtype=_stored(part, recipe, found, self._config.store.dtype),
                    source_dtype=found.dtype,
                    layer=layer_of(found.module),
                    portable=portable,
                    module_class=self._skeleton.modules[found.module],
                    probe=number,
                    details={**_details(probe, found, recipe), **found.details},
                ),
                source=found.source,
                choice=choice,
                recipe=recipe,
                part=place,
            )
            for place, (name, part) in enumerate(zip(recipe.parts, parts, strict=True))
        ]

    def _choice(self, probe: ProbeRule, found: Found) -> str:
        if not found.per_token:
            return PER_EXAMPLE
        if self._config.generate is None and probe.positions == GENERATED:
            raise PlanError("positions: generated, but nothing is: the config has no generate")
        if self._config.generate is None and probe.positions == PROMPT:
            return ALL_TOKENS
        return Choice.of(probe.positions).name

    def _recipe(self, found: Found, probe: ProbeRule) -> tuple[Found, Recipe]:
        """Build what a probe wants done with a tensor's rows; blocks take their heads at once."""
        heads = _chosen(probe.heads, found, "heads")
        ending = found.kind if found.kind in ("top_k", *LOGIT_KINDS) else None
        recipe = Recipe(
            heads=heads,
            neurons=_chosen(probe.neurons, found, "neurons"),
            einops=self._einops(probe, found),
            ending=ending,
            k=probe.k if ending == "top_k" else 0,
            logits=found.is_logits,
            pool=probe.pool,
        )
        if found.is_logits and ending and (recipe.neurons or recipe.einops):
            raise PlanError(f"{found.name} is over the whole vocabulary: no neurons, no einops")
        if found.source.element in BLOCK_KINDS:
            if probe.pool is not None and found.source.element in KEY_KINDS:
                raise PlanError(f"{found.name}: keys of one token are not keys of another; no pool")
            if probe.pool is not None:
                raise PlanError(f"{found.name} is computed in blocks; pool it from the trace")
            if heads is not None:
                found = replace(
                    found,
                    source=replace(found.source, heads=heads),
                    row_shape=(len(heads), *found.row_shape[1:]),
                )
            recipe = replace(recipe, heads=None)
        if found.source.projection is not None and heads is not None:
            found = replace(
                found,
                source=replace(found.source, heads=heads),
                row_shape=(len(heads), *found.row_shape[1:]),
            )
            recipe = replace(recipe, heads=None)
        if probe.pool is not None and ending == "top_k" and probe.pool != "last":
            raise PlanError(f"{found.name}: a {probe.pool} of token ids means nothing; pool: last")
        if found.kind == "expert_ids" and (recipe.einops or probe.pool not in (None, "last")):
            raise PlanError(
                f"{found.name} are numbers of experts, of which nothing can be reduced; pool: last"
            )
        ends_before_last = isinstance(probe.positions, str) and probe.positions.endswith(":-1")
        if probe.pool is not None and ending == "token_logprob" and not ends_before_last:
            if self._config.generate is not None:
                raise PlanError(
                    f"{found.name} of a token is known when the next one is there: while tokens "
                    'are generated, pool it with positions: ":-1" of the text, or from the trace'
                )
            raise PlanError(
                f"{found.name} is NaN at the last token, after which nothing came; "
                'pool it with positions: ":-1"'
            )
        if probe.pool is not None and not found.per_token:
            raise PlanError(f"{found.name} has one row an example: there is nothing to pool")
        return found, recipe

    def _einops(self, probe: ProbeRule, found: Found) -> Einops | None:
        step = probe.einops
        if step is None:
            return None
        pattern = step.rearrange or step.reduce
        assert pattern is not None  # the config has exactly one
        try:
            return einops_step(pattern, step.op, step.sizes, self._known_sizes)
        except PlanError as error:
            raise _KeyOfProbeError("einops", str(error)) from error

    @cached_property
    def _portable_names(self) -> dict[str, tuple[str, int | None]]:
        skeleton = self._skeleton
        return names_inside(skeleton.hf_config, skeleton.modules) | expert_names(skeleton.mixtures)

    @cached_property
    def _known_sizes(self) -> dict[str, int]:
        """Sizes of the model, by the names einops patterns use."""
        sizes = families.sizes(self._skeleton.hf_config)
        named = {
            "head": sizes.n_heads,
            "kv_head": sizes.n_kv_heads,
            "d_head": sizes.d_head,
            "d_model": sizes.d_model,
            "d_mlp": sizes.d_mlp,
            "d_vocab": sizes.d_vocab,
        }
        return {name: size for name, size in named.items() if size is not None}


def _chosen(asked: Sequence[int] | None, found: Found, what: str) -> tuple[int, ...] | None:
    """Check chosen heads (the first axis of a row) or neurons (the last)."""
    if asked is None:
        return None
    if what == "heads" and found.axes[:1] not in (("head",), ("kv_head",)):
        raise _KeyOfProbeError(
            what,
            f"{found.name} has no head axis, its rows are [{', '.join(found.axes)}]; "
            "heads go with pattern, scores, q, k, v, z and head_out",
        )
    if not found.row_shape:
        raise _KeyOfProbeError(
            what, f"{found.name} has one number a row: there are no {what} to choose"
        )
    size = found.row_shape[0 if what == "heads" else -1]
    for number in asked:
        if not -size <= number < size:
            raise _KeyOfProbeError(
                what,
                f"{found.name}: {what.removesuffix('s')} {number} is out of range "
                f"({size} there: 0..{size - 1}, or -{size}..-1)",
            )
    return tuple(number % size for number in asked)


def _after(found: Found, recipe: Recipe) -> tuple[tuple[str, ...], tuple[torch.Tensor, ...]]:
    """Try a recipe on rows of zeros: names of a row's axes, and a tensor for each part."""
    rows = torch.zeros((3, *found.row_shape), dtype=getattr(torch, found.dtype), device="meta")
    try:
        if recipe.ending == "top_k":
            _check_k(found, recipe, rows)
        parts = recipe.apply(rows, torch.zeros(3, dtype=torch.long, device="meta"), (1, 2))
    except einops.EinopsError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        shape = ", ".join(str(size) for size in found.row_shape)
        said = f"{found.name}: einops on rows of [{shape}]: {reason}"
        raise _KeyOfProbeError("einops", said) from error
    except (RuntimeError, IndexError) as error:
        steps = ", ".join(_steps(recipe))
        reason = str(error).strip().splitlines()[0]
        shape = f"[{', '.join(map(str, found.row_shape))}] {found.dtype}"
        raise PlanError(
            f"{found.name}: {steps} cannot be taken of rows of {shape}: {reason}"
        ) from error
    axes = found.axes
    if recipe.neurons is not None:
        axes = (*axes[:-1], "neuron")  # no longer the axis it was cut from
    if recipe.einops is not None:
        axes = right_axes(recipe.einops.pattern)[1:]
    if recipe.ending == "top_k":
        axes = (*axes[:-1], "k")
    elif recipe.ending is not None:
        axes = axes[:-1]
    n_axes = parts[0].ndim - 1
    if len(axes) != n_axes or "..." in axes:  # an ellipsis hides names
        axes = tuple(f"d_{size}" for size in parts[0].shape[1:])
    return axes, parts


def _check_k(found: Found, recipe: Recipe, rows: torch.Tensor) -> None:
    before = replace(recipe, ending=None, pool=None)
    (values,) = before.apply(rows, torch.zeros(3, dtype=torch.long, device="meta"), (1, 2))
    if values.ndim == 1:
        raise _KeyOfProbeError("einops", f"{found.name} has one number a row by then: no top_k")
    if recipe.k > values.shape[-1]:
        there = counted(values.shape[-1], "number")
        said = f"{found.name} has {there} to choose from; expected k: at most {values.shape[-1]}"
        raise _KeyOfProbeError("k", said)


def _no_pattern(text: str) -> str | None:
    """Say what a pattern of modules is that belongs under another key; None for any other."""
    if names := portable_like(text):
        what = "is a portable name" if names == [text] else "means portable names"
        sites = names[0] if len(names) == 1 else f"[{', '.join(names)}]"
        return f"{what}: write `sites: {sites}`"
    path, _, kind = text.rpartition("/")
    if path and kind.partition(".")[0].partition("@")[0] in RECORD_KINDS:
        return f"ends in a record kind: write `modules: {path}` and `record: [{kind}]`"
    return None


def _stored(part: torch.Tensor, recipe: Recipe, found: Found, asked: str) -> str:
    computed = str(part.dtype).removeprefix("torch.")
    if found.kind == "expert_ids":
        return "int32"  # as ids of tokens are; torch makes int64 of any choice
    if asked == "auto" or computed not in schema.FLOATS:
        return computed
    # Log-probabilities and entropies are a handful of numbers; 16 bits would only blur them.
    return computed if recipe.logits and recipe.ending is not None else asked


def _details(probe: ProbeRule, found: Found, recipe: Recipe) -> dict[str, Any]:
    """Say what was done to the rows, for the site's attributes; -1 is a number by then."""
    heads = recipe.heads or found.source.heads  # blocks take theirs at the source
    known = {
        "positions": str(probe.positions) if isinstance(probe.positions, Where) else None,
        "heads": None if probe.heads is None else list(heads),
        "neurons": None if recipe.neurons is None else list(recipe.neurons),
        "einops": None if recipe.einops is None else recipe.einops.pattern,
        "einops_op": None if recipe.einops is None else recipe.einops.op,
        "pool": recipe.pool,
    }
    return {key: value for key, value in known.items() if value is not None}


def moment(skeleton: Skeleton, source: Source) -> int:
    """Say at which event of a forward pass a source is there; the model's own output is last."""
    for call in skeleton.calls_of(source.module):
        if call.number == source.call:
            return call.entered if source.side == "input" else call.left
    return max(call.left for call in skeleton.calls) + 1


def _steps(recipe: Recipe) -> list[str]:
    taken = {
        "heads": recipe.heads,
        "neurons": recipe.neurons,
        "einops": recipe.einops,
        f"{recipe.ending} (k: {recipe.k})" if recipe.k else recipe.ending: recipe.ending,
        f"pool: {recipe.pool}": recipe.pool,
    }
    return [str(name) for name, step in taken.items() if step is not None]


def _ways(site: SitePlan) -> str:
    said = [f"{k} {v}" for k, v in {"positions": site.choice, **site.spec.details}.items()]
    return ", ".join(said)


def _listed(messages: Sequence[str]) -> str:
    rest = len(messages) - _NAMED
    return "; ".join(messages[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")
