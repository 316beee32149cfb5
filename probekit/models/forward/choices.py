"""Choices: which experts a token goes to, where a block works that out in its own code.

Most blocks hand ids and weights to a module that holds experts (see experts.py). Knows the three of
transformers' routers after which nobody is handed both, and how each says them; nothing of who
listens. No router runs a second time. Where its output holds no ids in order (Llama 4, Doge), they
are taken of the very logits the block went on with, by its own steps: equal ones fall as they fell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from probekit.models.forward.modulepaths import parent_of

CHOICES = "choices"  # the side of a reading that is worked out of what a router gives
MIXED = (
    "its router's logits are split into halves across the tokens of a batch, so which experts a "
    "token goes to depends on the others, later ones too"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What a router chose in one call."""

    router_logits: torch.Tensor  # [token, expert]
    expert_ids: torch.Tensor  # int64 [token, k]
    expert_weights: torch.Tensor  # [token, k]
    places: torch.Tensor | None = None  # int64 [token * k]: where experts write each choice

    def of(self, kind: str) -> torch.Tensor:
        """Give what a record kind means."""
        found: torch.Tensor = getattr(self, kind)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How a class of routers says what it chose."""

    logits: str  # the element of its output with a row for each token
    weights: str  # the element of its output that weights have the dtype of
    writer: str | None  # the module beside it that runs the experts; None: it does so itself
    chosen: Callable[[Any, Any], Chosen]  # of a router and its output
    written: Callable[[Any, Any, Any, Chosen], torch.Tensor]  # see `_llama4_written`
    weighs_input: bool = False  # an expert's weight is a factor of what it reads
    gives_logits: bool = True  # its output has [token, expert] as it is
    mixes_tokens: bool = False  # see MIXED


def _llama4(router: Any, output: Any) -> Chosen:
    scores, logits = output  # [token, expert], the scores zero but for the chosen
    # A score of a chosen one may round to 0, and two of them to 1: the logits alone are in order.
    ids = logits.topk(router.top_k, dim=1).indices
    return Chosen(router_logits=logits, expert_ids=ids, expert_weights=scores.gather(1, ids))


def _llama4_written(
    experts: Any, given: torch.Tensor, output: torch.Tensor, chosen: Chosen
) -> torch.Tensor:
    """Give what each choice wrote, `[token, k, d_model]`, of what the writer reads and gives."""
    ids = chosen.expert_ids
    every = output.view(chosen.router_logits.shape[1], len(ids), -1)  # [expert, token, d_model]
    return every[ids, torch.arange(len(ids), device=ids.device)[:, None]]


def _jetmoe(router: Any, output: Any) -> Chosen:
    by_expert, _, gates, n_each, logits = output
    shape = (len(logits), router.top_k)
    places = by_expert.argsort()  # of each choice among those sorted by expert
    numbers = torch.arange(len(n_each), device=places.device)
    ids = numbers.repeat_interleave(torch.as_tensor(n_each, device=places.device))
    return Chosen(
        router_logits=logits,
        expert_ids=ids[places].view(shape),
        expert_weights=gates[places].view(shape),
        places=places,
    )


def _jetmoe_written(
    experts: Any, given: torch.Tensor, output: torch.Tensor, chosen: Chosen
) -> torch.Tensor:
    return output[chosen.places].view(*chosen.expert_ids.shape, -1)


def _doge(block: Any, output: Any) -> Chosen:
    """Choose as `DogeCDMoE.forward` does, of the same logits: an expert is a pair of keys."""
    n_keys = block.num_keys
    (scores_x, scores_y), (x, y) = output[1].topk(n_keys, dim=-1)  # [2, token, key]
    scores = (scores_x.unsqueeze(-1) + scores_y.unsqueeze(-2)).flatten(1)
    numbers = (x.unsqueeze(-1) * n_keys + y.unsqueeze(-2)).flatten(1)  # [token, expert], sorted
    best, places = scores.topk(block.top_k, dim=-1)
    weights = best.softmax(-1)
    if block.norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return Chosen(
        router_logits=torch.empty_like(scores).scatter(1, numbers, scores),
        expert_ids=numbers.gather(-1, places),
        expert_weights=weights,
    )


def _doge_written(
    block: Any, given: torch.Tensor, output: torch.Tensor, chosen: Chosen
) -> torch.Tensor:
    embed = torch.nn.functional.embedding  # not the modules: their hooks would hear of it
    down = embed(chosen.expert_ids, block.down_embed.weight)  # [token, k, d_model]
    inner = torch.matmul(down, given.reshape(len(down), -1, 1))  # [token, k, 1]
    weight: torch.Tensor = block.act_fn(inner)
    return weight * embed(chosen.expert_ids, block.up_embed.weight)


# By class: nothing in their shapes says which experts were chosen, in which order.
_ROUTINGS: Mapping[str, Routing] = {
    # Every expert runs on every token, times a score that is zero but for the chosen.
    "Llama4Router": Routing(
        logits="1",
        weights="1",
        writer="experts",
        chosen=_llama4,
        written=_llama4_written,
        weighs_input=True,
    ),
    # Choices are sorted by expert; those of heads (JetMoeMoA) are chosen before attention runs,
    # and write behind it.
    "JetMoeTopKGating": Routing(
        logits="4",
        weights="2",
        writer="output_linear",
        chosen=_jetmoe,
        written=_jetmoe_written,
    ),
    # Experts are rows of two embeddings, their number a pair of keys: the block is its own router.
    "DogeCDMoE": Routing(
        logits="1",
        weights="1",
        writer=None,
        chosen=_doge,
        written=_doge_written,
        gives_logits=False,
        mixes_tokens=True,
    ),
}


def routing_of(module: torch.nn.Module) -> Routing | None:
    """Say how a router says what it chose, where no module is handed that."""
    return _ROUTINGS.get(type(module).__name__)


def mixes_tokens(module: torch.nn.Module) -> bool:
    """Say whether a token's experts depend on the other tokens of its batch."""
    routing = routing_of(module)
    return routing is not None and routing.mixes_tokens


def n_experts(router: Any) -> int:
    """Count the experts that such a router chooses among: of Doge's, those with a pair of keys."""
    routing = routing_of(router)
    assert routing is not None
    return int(router.num_experts if routing.gives_logits else router.num_keys**2)


def router_beside(model: torch.nn.Module, path: str) -> str:
    """Give the path of the router at a path, or beside the experts that lie there."""
    if routing_of(model.get_submodule(path)) is not None:
        return path
    parent = parent_of(path)
    beside = model.get_submodule(parent).named_children()
    (name,) = (name for name, module in beside if routing_of(module) is not None)
    return f"{parent}.{name}" if parent else name
