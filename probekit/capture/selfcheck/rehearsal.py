"""What a self-check rehearses: two texts of the run, and as many of its sites as fit.

Knows plans and sizes; runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from probekit.inputs import ANY_LENGTHS, GENERATED, Examples, few_examples, shards
from probekit.planning import Plan, SitePlan
from probekit.store import ALL_TOKENS

_MOST_TOKENS = 128  # of a text, where it can be cut and many sites are rehearsed
_LEAST_TOKENS = 16
_MOST_BYTES = 64 << 20  # of rows in a rehearsal
ROOM_BYTES = 6 * _MOST_BYTES  # of a disk, that all that is rehearsed fits beside the run
_MOST_SITES = 64

Array = np.ndarray[Any, Any]


def rehearsals(plan: Plan, company: str) -> Iterator[Plan]:
    """Plan what is rehearsed: many sites on short texts, then few at the lengths of the run.

    Where all texts are short it is the longest and the shortest of them, with many sites, once.

    Args:
        plan: of the run.
        company: which texts share a batch; where it is not any, both get one length.

    Yields:
        Plans of two texts, a long and a short one, or of the one text that there is.
    """
    assert plan.examples is not None  # a plan that runs has its inputs
    examples = plan.examples.prompts
    if not plan.sites:
        return
    sites = affordable(plan, _LEAST_TOKENS)
    if not sites:
        return
    row_bytes = sum(site.spec.row_bytes for site in sites)
    room = min(_MOST_TOKENS, max(_LEAST_TOKENS, _MOST_BYTES // max(1, row_bytes)))
    is_stepwise = plan.config.generate is not None and not _is_read_again(plan)
    alike = company != ANY_LENGTHS or is_stepwise
    extremes = _extremes(examples, alike=alike)
    if len(extremes[0]) <= room and _have_rows(plan, sites, extremes):
        yield planned(plan, sites, extremes)  # many sites at the lengths of the run
        return
    n_tokens = examples.n_tokens
    others = np.flatnonzero(n_tokens != n_tokens[0])
    second = int(others[0]) if len(others) else 1
    whole = [examples.token_ids(n, n + 1) for n in (0, second)[: len(examples)]]
    few = _cut(whole, room, alike=alike)
    yield planned(plan, sites, few if _have_rows(plan, sites, few) else whole)

    smallest = min(site.spec.row_bytes for site in sites)
    room = max(_MOST_TOKENS, plan.config.inputs.batch_tokens)
    room = min(len(extremes[0]), room, _MOST_BYTES // (2 * max(1, smallest)))
    if len(examples) == 1 or room <= max(map(len, few)):
        return
    sites = affordable(plan, room)
    texts = [ids[:room] for ids in extremes]
    if _have_rows(plan, sites, texts):
        yield planned(plan, sites, texts)


def _extremes(examples: Examples, *, alike: bool) -> list[Array]:
    """Give the longest text and the shortest, or the one that there is; alike: of one length."""
    n_tokens = examples.n_tokens
    longest, shortest = int(n_tokens.argmax()), int(n_tokens.argmin())
    numbers = [longest, shortest if longest != shortest else 1][: len(examples)]
    texts = [examples.token_ids(n, n + 1) for n in numbers]
    if alike and len(texts) > 1:  # of another text so many tokens as make it as long
        texts[1] = np.resize(np.concatenate([texts[1], texts[0]]), len(texts[0]))
    return texts


def _cut(whole: Sequence[Array], room: int, *, alike: bool) -> list[Array]:
    """Cut texts to what there is room for: to one length, or so that they still differ in length.

    What fits keeps its length: a model can give other shapes for texts shorter than all of the run.
    """
    shortest = min(room, *map(len, whole))
    if alike:
        return [ids[:shortest] for ids in whole]
    differ = len({len(ids) for ids in whole}) > 1
    second = 2 * room // 3 if differ and shortest == room else room
    return [ids[:n] for ids, n in zip(whole, (room, second), strict=False)]


def affordable(plan: Plan, n_tokens: int) -> tuple[SitePlan, ...]:
    """Choose sites, few enough and of few enough bytes: the deepest of each kind goes first."""
    sites = {site.spec.name: site for one in plan.sites if (site := _any_text(one, plan))}
    kinds = {(re.sub(r"\d+", "*", name), site.recipe): site for name, site in sites.items()}
    deepest = {site.spec.name: site for site in kinds.values()}
    chosen: set[str] = set()
    n_bytes = 0
    for name, site in {**deepest, **sites}.items():
        more = site.spec.row_bytes * 2 * n_tokens
        if name not in chosen and n_bytes + more <= _MOST_BYTES and len(chosen) < _MOST_SITES:
            chosen.add(name)
            n_bytes += more
    if not chosen and sites:
        chosen.add(min(sites.values(), key=lambda site: site.spec.row_bytes).spec.name)
    return tuple(site for name, site in sites.items() if name in chosen)


def _any_text(site: SitePlan, plan: Plan) -> SitePlan | None:
    """Let a site that keeps what no short text has keep every token; None where it cannot."""
    is_generated = _is_read_again(plan) and site.choice == GENERATED
    if site.choice not in plan.choices.found and not is_generated:
        return site
    if site.recipe.pool is not None and site.recipe.ending is not None:
        return None  # the mean of what comes after each token: nothing comes after the last
    rows = ALL_TOKENS if site.spec.rows == site.choice else site.spec.rows
    return replace(site, choice=ALL_TOKENS, spec=replace(site.spec, rows=rows))


def _is_read_again(plan: Plan) -> bool:
    """Say whether what is recorded is a reading of whole sequences, as of texts."""
    return plan.config.generate is not None and plan.config.generate.beams > 1


def _have_rows(plan: Plan, sites: Sequence[SitePlan], texts: Sequence[Array]) -> bool:
    """Say whether texts that were cut still have what the probes ask for."""
    n_prompt = np.array([len(ids) for ids in texts])
    n_tokens = n_prompt + (plan.config.generate is not None and not _is_read_again(plan))
    for site in sites:
        try:
            counts = plan.choices.counts(site.choice, n_tokens, n_prompt)
        except IndexError:  # a position asked for by its number
            return False
        if site.recipe.pool is not None and not counts.all():
            return False
    return True


def planned(plan: Plan, sites: tuple[SitePlan, ...], texts: Sequence[Array]) -> Plan:
    """Plan to record some sites on some texts, and no more than that."""
    config = plan.config
    generate = None if _is_read_again(plan) else config.generate
    if generate is not None:
        few = {"max_new_tokens": 1, "strategy": "greedy", "samples": 1}
        once = {"use_cache": True} if generate.use_cache == "both" else {}
        generate = generate.model_copy(update={**few, **once})
    small = config.model_copy(
        update={
            "execution_order": False,
            "generate": generate,
            "store": config.store.model_copy(update={"compression": None}),
        }
    )
    extra = 0 if generate is None else generate.max_new_tokens
    n_prompt = np.array([len(ids) for ids in texts])
    return replace(
        plan,
        config=small,
        sites=sites,
        examples=few_examples(texts),
        shards=shards.split(
            n_prompt + extra, [site.spec for site in sites], 2**62, n_prompt=n_prompt
        ),
    )
