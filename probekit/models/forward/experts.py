"""Experts: where a model says which of them each token goes to, and with what weight.

Knows the shape of transformers' mixture-of-experts blocks, and no family: a module that holds
experts is given their numbers and weights by name, and `_can_record_outputs` says which modules'
outputs hold a router's logits. Where no module is given numbers and weights, choices.py knows the
routers. It looks at modules alone, and runs nothing.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from probekit.errors import PlanError
from probekit.models.forward.choices import CHOICES, mixes_tokens, n_experts, routing_of
from probekit.models.forward.modulepaths import layer_of, parent_of

OF_CHOICES = ("expert_ids", "expert_weights", "expert_out")  # in the order of a token's choices
EXPERT_KINDS = ("router_logits", *OF_CHOICES)
EACH_EXPERT = "each expert"  # the side of a reading that is computed beside: see eachexpert.py

# What transformers calls them: top_k_index and top_k_weights; router_indices and routing_weights.
_IDS = re.compile(r"(?:^|_)(?:index|indices|ids)$")
_WEIGHTS = re.compile(r"(?:^|_)(?:weights|scores)$")
_NO_ROUTER = "transformers does not say which of its modules gives the logits of a router"
_NOT_GIVEN = (
    "no module in it is handed each token's experts and their weights, which the block works out "
    "in its own code"
)
# Routers that give probabilities under that name, and the module in them that gives the logits.
_GIVE_PROBABILITIES = {"Gemma4TextRouter": "proj", "DiffusionGemmaTextRouter": "proj"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A tensor among what a module is given or gives, or one worked out of that."""

    module: str  # path
    side: str  # "input", "output", EACH_EXPERT or CHOICES
    element: str | None  # a parameter's name, or a place in a tuple; None: all; of CHOICES: a kind
    routed: Routed | None = None  # of CHOICES


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """A router that says what it chose, where no module is handed that; see choices.py."""

    module: str  # path
    logits: str  # the element of its output with a row for each token
    weights: str  # the element of its output that weights have the dtype of
    n_experts: int
    k: int
    weighs_input: bool  # an expert's weight is a factor of what it reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """A block of a model that sends each token to some of its experts."""

    module: str  # path of the block
    layer: int | None
    in_attention: bool  # its experts are those of attention heads (JetMoE), not the MLP's
    readings: Mapping[str, Reading | str]  # of EXPERT_KINDS: where it is, or why it is nowhere
    mixes_tokens: bool = False  # a token's experts depend on the other tokens of its batch


@dataclass(frozen=True, slots=True)
class _Recorded:
    """Outputs that transformers itself collects as router logits."""

    kind: type | None
    ending: str | None  # of the module's class path in the model, where no class is given
    index: int
    within: str | None  # only below a module of this name

    def holds(self, path: str, module: torch.nn.Module) -> bool:
        named = self.ending is not None and path.endswith(self.ending)
        if not named and (self.kind is None or not isinstance(module, self.kind)):
            return False
        return self.within is None or f".{self.within.strip('.')}." in f".{path}."


def expert_blocks(
    mixtures: Mapping[str, Mixture], name: str, model_class: str
) -> dict[int | None, str]:
    """Give the path of each layer's block, where its MLP is a mixture of experts.

    Args:
        mixtures: of a model; see `mixtures_of`.
        name: of EXPERT_KINDS, as a portable name.
        model_class: how messages call the model.

    Raises:
        PlanError: if the model has no such block.
    """
    found: dict[int | None, str] = {}
    for mixture in mixtures.values():
        if mixture.in_attention:
            continue
        earlier = found.setdefault(mixture.layer, mixture.module)
        if earlier != mixture.module:
            raise PlanError(
                f"portable name {name!r} means several places on this {model_class}: layer "
                f"{mixture.layer} has {earlier} and {mixture.module}; name the one you mean, with "
                f"`modules:` and `record: [{name}]`"
            )
    if not found:
        raise PlanError(
            f"portable name {name!r} does not exist on this {model_class}: no module of it is a "
            "mixture of experts, as far as its modules and transformers say"
        )
    return found


def expert_names(mixtures: Mapping[str, Mixture]) -> dict[str, tuple[str, int | None]]:
    """Map `block path/record kind` to its portable name and layer, as `portable_names` does."""
    return {
        f"{mixture.module}/{kind}": (kind, mixture.layer)
        for mixture in mixtures.values()
        for kind, at in mixture.readings.items()
        if not mixture.in_attention and not isinstance(at, str)
    }


def mixtures_of(model: torch.nn.Module) -> dict[str, Mixture]:
    """Find the mixture-of-experts blocks of a model, by path, in the order of the module tree."""
    modules = dict(model.named_modules())
    routers = _routers(modules)
    told = {kind: given_experts(kind) for kind in {type(module) for module in modules.values()}}
    experts = {
        path: given
        for path, module in modules.items()
        if path and (given := told[type(module)]) is not None
    }
    holds_experts = {parent_of(path): path for path in experts}
    blocks = dict.fromkeys((*holds_experts, *(_block_of(r, modules) for r in routers)))
    found = {}
    for path, router in _beside(blocks, routers, modules).items():
        own = None if path in holds_experts or router is None else _worked_out(router, modules)
        readings: dict[str, Reading | str] = {
            "router_logits": router or _NO_ROUTER,
            **(own or _of_experts(holds_experts.get(path), experts)),
        }
        found[path] = Mixture(
            module=path,
            layer=layer_of(path),
            in_attention=_in_attention(path, modules),
            readings=readings,
            mixes_tokens=router is not None and mixes_tokens(modules[router.module]),
        )
    order = {path: place for place, path in enumerate(modules)}
    return {path: found[path] for path in sorted(found, key=lambda path: order[path])}


def _beside(
    blocks: Iterable[str], routers: Mapping[str, Reading], modules: Mapping[str, torch.nn.Module]
) -> dict[str, Reading | None]:
    """Find the router of each block."""
    beside = {path: _router_in(path, routers) for path in blocks}
    # A layer may choose its experts by another class of router, which nobody collects (DeepSeek
    # V4's hash of the token), under the same name and with the same outputs.
    names = {
        (router.module.removeprefix(path), router.element): None
        for path, router in beside.items()
        if router is not None
    }
    for path in [path for path, router in beside.items() if router is None]:
        alike = (
            Reading(module=path + name, side="output", element=element)
            for name, element in names
            if path + name in modules
        )
        beside[path] = next(alike, None)
    return beside


def _of_experts(
    holder: str | None, experts: Mapping[str, tuple[str, str]]
) -> dict[str, Reading | str]:
    if holder is None:
        return dict.fromkeys(OF_CHOICES, _NOT_GIVEN)
    ids, weights = experts[holder]
    return {
        "expert_ids": Reading(module=holder, side="input", element=ids),
        "expert_weights": Reading(module=holder, side="input", element=weights),
        "expert_out": Reading(module=holder, side=EACH_EXPERT, element=None),
    }


def _worked_out(
    router: Reading, modules: Mapping[str, torch.nn.Module]
) -> dict[str, Reading | str] | None:
    """Say where choices are read that a block works out in its own code, if they can be."""
    routing = routing_of(modules[router.module])
    if routing is None:
        return None
    at: Any = modules[router.module]
    routed = Routed(
        module=router.module,
        logits=routing.logits,
        weights=routing.weights,
        n_experts=n_experts(at),
        k=int(at.top_k),
        weighs_input=routing.weighs_input,
    )
    block = parent_of(router.module)
    writer = router.module if routing.writer is None else f"{block}.{routing.writer}".strip(".")
    places = dict.fromkeys(EXPERT_KINDS[routing.gives_logits :], router.module)
    return {
        kind: Reading(module=path, side=CHOICES, element=kind, routed=routed)
        for kind, path in (places | {"expert_out": writer}).items()
    }


def given_experts(kind: Any) -> tuple[str, str] | None:
    """Name the parameters by which a module that holds experts is told ids and weights."""
    if "expert" not in kind.__name__.lower():
        return None
    parameters = list(inspect.signature(kind.forward).parameters)
    ids = [name for name in parameters if _IDS.search(name)]
    weights = [name for name in parameters if _WEIGHTS.search(name)]
    return (ids[0], weights[0]) if len(ids) == 1 and len(weights) == 1 else None


def _routers(modules: Mapping[str, torch.nn.Module]) -> dict[str, Reading]:
    """Find the modules whose outputs transformers collects as router logits, innermost alone."""
    kinds = dict.fromkeys(type(module) for module in modules.values())
    recorded = dict.fromkeys(r for kind in kinds for r in _recorded(kind))
    found = {
        path: _logits(path, module, recorder.index)
        for path, module in modules.items()
        for recorder in recorded
        if recorder.holds(path, module)
    }
    return {
        path: router
        for path, router in found.items()
        if not any(other.startswith(f"{path}.") for other in found)
    }


def _logits(path: str, module: torch.nn.Module, index: int) -> Reading:
    inner = _GIVE_PROBABILITIES.get(type(module).__name__)
    if inner is not None:
        return Reading(module=f"{path}.{inner}", side="output", element=None)
    return Reading(module=path, side="output", element=str(index))


def _recorded(kind: type) -> tuple[_Recorded, ...]:
    asked = getattr(kind, "_can_record_outputs", None)
    given: Any = asked.get("router_logits", ()) if isinstance(asked, Mapping) else ()
    return tuple(_read(each) for each in (given if isinstance(given, list | tuple) else (given,)))


def _read(given: Any) -> _Recorded:
    """Read an entry of `_can_record_outputs`; a lone class or its name means its second output."""
    if isinstance(given, str):
        return _Recorded(None, given, 1, None)
    if isinstance(given, type):
        return _Recorded(given, None, 1, None)
    return _Recorded(given.target_class, given.class_name, given.index, given.layer_name)


def _router_in(block: str, routers: Mapping[str, Reading]) -> Reading | None:
    inside = (r for path, r in routers.items() if path == block or path.startswith(f"{block}."))
    return next(inside, None)


def _block_of(router: str, modules: Mapping[str, torch.nn.Module]) -> str:
    """Give the module that a router and its experts lie in: its own where it has none beside it."""
    parent = parent_of(router)
    beside = (p for p in modules if p.startswith(f"{parent}.") and p != router)
    has_experts = any("expert" in type(modules[p]).__name__.lower() for p in beside)
    return parent if has_experts else router


def _in_attention(path: str, modules: Mapping[str, torch.nn.Module]) -> bool:
    parts = path.split(".")
    around = (".".join(parts[:n]) for n in range(1, len(parts)))
    return any("attention" in type(modules[p]).__name__.lower() for p in around)
