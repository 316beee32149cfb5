"""The self-check: a small rehearsal before a run's first batch, compared with what must equal it.

Two texts of the run are recorded into a scratch folder by the very code that will record the run:

- together in a batch, while bare torch hooks watch the same forward passes: what is stored must be
  what they saw, bit for bit, and a multiple of that to within its dtype's rounding;
- the short text alone, before that batch and behind it, and the long one alone: each must have the
  rows that it had in the batch, to rounding, whatever ran before.

Once with many sites on texts that are cut short, once with few at the lengths of the run; where all
texts are short, once with many at those lengths. Where the company reaches the rows, texts of one
length are tried together, without padding, and then each alone: the run goes on as the first of
these that is right, and says so.

Knows plans and traces; nothing of how rows are recorded. The run itself is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from probekit.capture.selfcheck.rehearsal import planned, rehearsals
from probekit.capture.selfcheck.rowdifference import TOLERANCES, difference
from probekit.errors import CaptureError
from probekit.hooks import BareHooks
from probekit.inputs import ALONE, ANY_LENGTHS, ONE_LENGTH, Choice
from probekit.interrupts import uninterrupted
from probekit.models.forward import OF_CHOICES
from probekit.planning import Plan, Recipe, SitePlan, in_heads, to_storage
from probekit.store import ALL_TOKENS, FLOATS, PER_EXAMPLE, SCRATCH, explained, this_process, widen
from probekit.trace import Site, Trace, open_trace

Array = np.ndarray[Any, Any]
Record = Callable[[Plan, Path, str], None]  # carries a plan out into a folder, in some company

_COMPANIES = (ANY_LENGTHS, ONE_LENGTH, ALONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a self-check has found."""

    company: str  # which texts may share a batch
    said: Mapping[str, Any]  # for made.json
    notes: tuple[str, ...]  # what the user should know


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worst:
    """The site that differs most, and by how much of its spread."""

    site: str
    difference: float
    tolerance: float

    @property
    def is_wrong(self) -> bool:
        return self.difference > self.tolerance

    def __str__(self) -> str:
        return f"{self.site} by {self.difference:.2g} of its spread"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rehearsed:
    """What one rehearsal has found."""

    n_equal: int  # sites that are what a bare hook saw, bit for bit
    carried: _Worst | None  # between the short text alone, before the batch and behind it
    worst: _Worst | None  # between a text alone and in the batch


def self_check(
    model: torch.nn.Module, plan: Plan, record: Record, place: Path, company: str = ANY_LENGTHS
) -> Checked:
    """Rehearse a run and compare.

    Args:
        model: loaded, as the run will use it.
        plan: of the run.
        record: what will carry the run out.
        place: the run's folder; what is rehearsed lies there meanwhile.
        company: which texts may share a batch, as far as is known.

    Returns:
        Which texts may, and attributes for made.json: `self_check` ("passed"), `self_check_sites`
        (how many sites equal a bare hook), of the site that differs most between alone and in a
        batch `self_check_site`, `self_check_difference` and `self_check_tolerance`, in its spread;
        `self_check_batches` where not all texts may share a batch.

    Raises:
        CaptureError: if a site is not what a bare hook sees, or a text has other rows behind
            another than on a model that has just been loaded.
    """
    notes: list[str] = []
    for tried in _COMPANIES[_COMPANIES.index(company) :]:
        with _scratch(place) as folder:
            found = [
                _rehearse(model, plan, small, tried, record, folder / str(number))
                for number, small in enumerate(rehearsals(plan, tried))
            ]
        if not found:
            return Checked(company=tried, said={"self_check": "nothing to check"}, notes=())
        worst = _largest_of(one.worst for one in found)
        if worst is None or not worst.is_wrong:
            said = {"self_check": "passed", "self_check_sites": found[0].n_equal}
            return Checked(company=tried, said=said | _said(worst, tried), notes=tuple(notes))
        if tried != ALONE:
            notes.append(_other_company(plan, worst, tried))
    assert worst is not None  # the last company was wrong
    raise CaptureError(
        f"self-check: {plan.skeleton.model_class} gives a text other rows each time it runs alone, "
        f"at {worst} (rounding explains {worst.tolerance:g}); --no-self-check records them as they "
        "are"
    )


def _said(worst: _Worst | None, company: str) -> dict[str, Any]:
    batches = {} if company == ANY_LENGTHS else {"self_check_batches": company}
    if worst is None:
        return batches
    return batches | {
        "self_check_difference": worst.difference,
        "self_check_tolerance": worst.tolerance,
        "self_check_site": worst.site,
    }


def _other_company(plan: Plan, worst: _Worst, tried: str) -> str:
    how = {
        ANY_LENGTHS: "texts of one length run together, without padding",
        ONE_LENGTH: "every text runs alone",
    }[tried]
    what = "padding or longer texts" if tried == ANY_LENGTHS else "other texts"
    return (
        f"{plan.skeleton.model_class} lets {what} in a batch reach a text's rows ({worst}; "
        f"rounding explains {worst.tolerance:g}): {how}"
    )


def _rehearse(
    model: torch.nn.Module, plan: Plan, small: Plan, company: str, record: Record, folder: Path
) -> _Rehearsed:
    """Record two texts together, and each alone."""
    assert small.examples is not None
    n_tokens = small.examples.n_tokens
    short = int(n_tokens.argmin())

    def alone(example: int, name: str) -> _Recorded:
        lone = planned(plan, small.sites, [_tokens(small, example)])
        record(lone, folder / name, company)
        return _Recorded(open_trace(folder / name / lone.shards[0].file), 0)

    before = alone(short, "before") if len(n_tokens) > 1 else None
    together, n_equal = _against_hooks(model, small, short, record, folder / "together", company)
    if before is None:
        return _Rehearsed(n_equal=n_equal, carried=None, worst=None)
    behind = alone(short, "behind")
    carried = _compare(small, before, behind)
    if carried is not None and carried.is_wrong:
        raise CaptureError(
            f"self-check: {plan.skeleton.model_class} gives a text other rows behind a longer one "
            f"than on a model that has just been loaded, at {carried} (rounding explains "
            f"{carried.tolerance:g}): it carries something from pass to pass that probekit does "
            "not know. --no-self-check records it all the same"
        )
    pairs = [(short, behind), (1 - short, alone(1 - short, "long"))]
    worst = _largest_of(_compare(small, _Recorded(together, n), rows) for n, rows in pairs)
    return _Rehearsed(n_equal=n_equal, carried=carried, worst=worst)


@contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    """Give a folder for the time of a block; a signal waits while it is removed."""
    with explained(place):
        scratch = TemporaryDirectory(prefix=f"{SCRATCH}{this_process()}-", dir=place)
    try:
        yield Path(scratch.name)
    finally:
        with uninterrupted():
            scratch.cleanup()


def _tokens(plan: Plan, example: int) -> Array:
    assert plan.examples is not None
    return plan.examples.token_ids(example, example + 1)


# --- recording and comparing


def _against_hooks(
    model: torch.nn.Module, plan: Plan, example: int, record: Record, folder: Path, company: str
) -> tuple[Trace, int]:
    """Record under bare hooks; give the trace, and how many sites equal what they saw."""
    tokens = _tokens(plan, example)
    plain = {site.spec.name: site for site in plan.sites if _is_plain(site)}
    sources = {name: site.source for name, site in plain.items()}
    with BareHooks(model, sources, tokens) as hooks:
        record(plan, folder, company)
    trace = open_trace(folder / plan.shards[0].file)
    wrong: list[str] = []
    n_seen = 0
    for name, site in plain.items():
        stored = _site_rows(trace[name], example)
        seen = _expected(site, hooks.rows.get(name), len(tokens))
        n_seen += bool(len(seen))
        stored = stored[: len(seen)] if plan.config.generate else stored
        if not _is_alike(site, stored, seen):
            wrong.append(f"{name} by {_largest(stored, seen, site.spec.dtype)}")
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise CaptureError(
            "self-check: what would be stored is not what a bare torch hook sees on the same "
            f"forward pass: {', '.join(wrong[:3])}{more}. This is a defect of probekit or of a "
            "hook that changes the model while it runs; --no-self-check records it all the same"
        )
    return trace, n_seen


def _is_plain(site: SitePlan) -> bool:
    """Say whether a site's rows are a tensor of the model, or a multiple, or some entries of it.

    What is computed of one in another way (norms' scales, what heads write) no hook sees.
    """
    chosen = Recipe(heads=site.recipe.heads, neurons=site.recipe.neurons)
    source = site.source
    return (
        source.side in ("input", "output")
        and site.recipe == chosen
        and not (source.n_keys or source.scale or source.projection)
    )


def _is_alike(site: SitePlan, stored: Array, seen: Array) -> bool:
    """Compare stored bits: a multiple may be rounded once more than by hand, in either dtype."""
    if site.source.factor == 1.0 or stored.shape != seen.shape:
        return stored.tobytes() == seen.tobytes()
    dtypes = (site.spec.dtype, site.spec.source_dtype)
    rounding = max(torch.finfo(getattr(torch, dtype)).eps for dtype in dtypes)
    ours, theirs = (_numbers(bits, site.spec.dtype) for bits in (stored, seen))
    least = torch.finfo(getattr(torch, site.spec.dtype)).tiny
    return np.allclose(ours, theirs, rtol=2 * rounding, atol=least, equal_nan=True)


def _expected(site: SitePlan, seen: torch.Tensor | None, n_tokens: int) -> Array:
    """Give what a site must have stored of what a bare hook saw, as stored bits."""
    if seen is None:
        return np.empty(0, dtype=np.uint8)
    rows = in_heads(seen, 1, site.source.split, site.source.channels)
    if site.choice != PER_EXAMPLE:
        rows = rows[torch.as_tensor(Choice(site.choice).positions(n_tokens), device=seen.device)]
    if site.recipe.heads is not None:
        rows = rows[:, list(site.recipe.heads)]
    if site.recipe.neurons is not None:
        rows = rows[..., list(site.recipe.neurons)]
    if site.source.factor != 1.0:
        rows = (rows.double() * site.source.factor).to(rows.dtype)
    stored = rows.to(getattr(torch, site.spec.dtype)).cpu().contiguous()
    return to_storage(stored)


def _site_rows(site: Site, example: int) -> Array:
    """Give an example's rows as stored bits."""
    stored: Array = site.raw(site.rows_of(example))
    return stored


def _largest(stored: Array, seen: Array, dtype: str) -> str:
    if stored.shape != seen.shape:
        return f"{list(stored.shape)} rows instead of {list(seen.shape)}"
    return f"up to {np.abs(_numbers(stored, dtype) - _numbers(seen, dtype)).max():.3g}"


def _numbers(stored: Array, dtype: str) -> Array:
    return widen(stored, dtype).astype(np.float64)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """One example of a recording."""

    trace: Trace
    example: int

    def rows(self, name: str) -> Array:
        return _numbers(_site_rows(self.trace[name], self.example), self.trace[name].dtype)

    @property
    def tokens(self) -> list[int]:
        found: list[int] = self.trace.examples.token_ids(self.example).tolist()
        return found


def _compare(plan: Plan, ours: _Recorded, theirs: _Recorded) -> _Worst | None:
    """Find the site whose rows differ most between two recordings, against its tolerance."""
    said_same = ours.tokens == theirs.tokens  # nearly equal logits can choose another token
    found = []
    for site in plan.sites:
        spec = site.spec
        if spec.dtype not in FLOATS or spec.kind in OF_CHOICES:
            continue  # ids of equal values can change places, and with them what belongs to each
        n_rows = None
        if not said_same and Choice(site.choice).spans_passes:
            if spec.rows != ALL_TOKENS:
                continue
            n_rows = len(_tokens(plan, 0))  # of the prompt, which both have read
        precisions = (spec.dtype, spec.source_dtype, str(plan.dtype).removeprefix("torch."))
        tolerance = max(TOLERANCES.get(dtype, 0.0) for dtype in precisions)
        a, b = ours.rows(spec.name)[:n_rows], theirs.rows(spec.name)[:n_rows]
        found.append(_Worst(site=spec.name, difference=difference(a, b), tolerance=tolerance))
    return _largest_of(found)


def _largest_of(found: Any) -> _Worst | None:
    there = [worst for worst in found if worst is not None]
    return max(there, key=lambda worst: worst.difference / worst.tolerance, default=None)
