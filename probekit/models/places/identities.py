"""Identities: what must hold between a model's values for its places to be the right ones.

Each is a row: what is compared, on a tiny model's real values; which names are wrong where it
fails; and, by the pairs it compares, which places it shows right where it holds. A place is offered
only if a row that would fail were it wrong has been compared, and held:

| name | fails, were it another tensor |
|---|---|
| embed | embed = first resid_pre, but for what no token changes |
| resid_pre, resid_mid, resid_post | the sums of a layer, or its steps; the hand-on |
| attn_in, mixer_in, mlp_in | the norm of the stream |
| q, q_pre_rot, k, k_pre_rot, v | the kernel, called again with them |
| pattern, scores | pattern @ v; the softmax of scores |
| z | the projection |
| head_out, attn_out | the sum over heads; attn_out in the sums of a layer, or its steps, too |
| mixer_out, mlp_out | the sums of a layer, or its steps; mlp_out by its last map, too |
| mlp_pre, mlp_post | the activation and its gate; the last map |
| ln1_scale, ln2_scale, ln_final_scale | norm = weight * input / scale + bias, small inputs too |
| ln_final | the norm of the last resid_post |
| logits | what the model returns, and the head of the final norm |

A norm hides by how much its input is multiplied: it shows what it gives alone.
Where in an attention module q, k and z lie is said by a plan; here it is shown that it is the
right module. Knows arithmetic; the places come from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probekit.models.places import insiderows, streamrows
from probekit.models.places.found import Found, Key
from probekit.models.places.names import Place
from probekit.models.places.tinyrun import Run
from probekit.models.places.values import Pair, Values
from probekit.wording import counted

LIMIT = 1e-4  # of the largest value


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One row: what it says, and the names whose places are wrong where it fails."""

    says: str
    names: tuple[str, ...]
    shows: tuple[str, ...]  # names that are right where it holds
    pairs: Callable[[Values], Iterator[Pair]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What an identity came to on a model."""

    says: str
    names: tuple[str, ...]
    difference: float  # the largest, of the largest value
    shown: frozenset[Key]  # places that took part in what held
    unlike: frozenset[Key]  # and in what did not

    @property
    def holds(self) -> bool:
        """Say whether it is within rounding."""
        return self.difference <= LIMIT

    @property
    def reason(self) -> str:
        """Say why names are refused."""
        if self.difference == float("inf"):
            return f"{self.says} fails: there is no such sum, or a weight is a factor of it"
        return f"{self.says} fails by {self.difference:.2g} of the largest value"


def checked(run: Run, found: Found) -> tuple[Checked, ...]:
    """Hold every identity against a forward pass; those with nothing to compare are left out."""
    values = Values(run, found)
    with torch.no_grad():
        rows = [_row(identity, values) for identity in IDENTITIES]
    return tuple(row for row in rows if row is not None)


def _row(identity: Identity, values: Values) -> Checked | None:
    differences: list[float] = []
    keys: dict[bool, set[Key]] = {True: set(), False: set()}
    for pair in identity.pairs(values):
        difference = _difference(pair.worked_out, pair.given)
        differences.append(difference)
        keys[difference <= LIMIT] |= {key for key in pair.keys if key[0] in identity.shows}
    if not differences:
        return None
    return Checked(
        says=identity.says,
        names=identity.names,
        difference=max(differences),
        shown=frozenset(keys[True]),
        unlike=frozenset(keys[False]),
    )


def refuse_unshown(run: Run, found: Found, rows: tuple[Checked, ...]) -> None:
    """Refuse places that are wrong where a row fails, and those that no row shows right."""
    for row in rows:
        if not row.holds:
            for name in row.names:
                found.refuse(name, row.reason)
    shown = frozenset().union(*(row.shown for row in rows))
    for key, place in [one for one in found.places.items() if one[0] not in shown]:
        del found.places[key]
        failing = [row.reason for row in rows if key in row.unlike]
        found.missing[key] = next(iter(failing), _unshown(run, place))


def _unshown(run: Run, place: Place) -> str:
    n_calls = sum(call.path == place.module for call in run.passed.calls)
    if n_calls > 1:
        return f"the module where it lies runs {counted(n_calls, 'time')} in a forward pass"
    return "nothing that would fail were it another tensor could be compared on the tiny model"


def _difference(a: Tensor, b: Tensor) -> float:
    if a.numel() != b.numel():
        return float("inf")
    a, b = a.flatten().double(), b.flatten().double()
    largest = float(torch.maximum(a.abs().max(), b.abs().max()))
    worst = float((a - b).abs().max()) / largest if largest else 0.0
    return worst if worst == worst else float("inf")  # NaN compares with nothing


def _says(
    says: str,
    names: tuple[str, ...],
    pairs: Callable[[Values], Iterator[Pair]],
    also: tuple[str, ...] = (),
) -> Identity:
    return Identity(says=says, names=names, shows=(*names, *also), pairs=pairs)


_MIXED = ("attn_out", "mixer_out")
IDENTITIES = (
    _says(
        "resid_pre + attn_out = resid_mid",
        ("resid_mid",),
        streamrows.halves_meet,
        ("resid_pre", *_MIXED),
    ),
    _says(
        "resid_mid + mlp_out = resid_post",
        ("resid_post",),
        streamrows.second_half,
        ("resid_mid", "mlp_out"),
    ),
    _says(
        "resid_pre + attn_out + mlp_out = resid_post",
        ("resid_post",),
        streamrows.whole_layer,
        ("resid_pre", *_MIXED, "mlp_out"),
    ),
    _says(
        "resid_pre, with all that is added, scaled and normed = what the layer gives",
        (),
        streamrows.step_by_step,
        ("resid_pre", *_MIXED, "mlp_out"),
    ),
    _says(
        "the layer of resid_pre again = what it gave, where no sum leads through it",
        (),
        streamrows.runs_again,
        ("resid_pre", "resid_post"),
    ),
    _says(
        "resid_post of a layer = resid_pre of the next",
        ("resid_pre", "resid_post"),
        streamrows.hand_on,
    ),
    _says(
        "norm(resid_pre) = attn_in",
        ("attn_in",),
        streamrows.read_by("attn_in", "attention"),
    ),
    _says(
        "norm(resid_pre) = mixer_in",
        ("mixer_in",),
        streamrows.read_by("mixer_in", "mixer"),
    ),
    _says(
        "norm(stream) = mlp_in",
        ("mlp_in",),
        streamrows.read_by("mlp_in", "mlp"),
    ),
    _says("pattern @ v = what the kernel gives", ("pattern", "scores"), insiderows.attends),
    _says("softmax(scores) = pattern", ("scores",), insiderows.looks),
    _says(
        "the kernel of q, k and v again = what it gave",
        ("q", "q_pre_rot", "k", "k_pre_rot", "v"),
        insiderows.attends_again,
    ),
    _says("projection(z) = attn_out", ("z", "head_out"), insiderows.projects),
    _says(
        "head_out over all heads + bias = attn_out, before a norm of that",
        ("head_out",),
        insiderows.heads_write,
        ("attn_out",),
    ),
    _says("act(mlp_pre), gated = mlp_post", ("mlp_pre",), insiderows.activates),
    _says(
        "down_proj(mlp_post) = mlp_out",
        ("mlp_post", "mlp_pre"),
        insiderows.writes,
        ("mlp_out",),
    ),
    _says(
        "norm before attention = weight * input / scale + bias",
        ("ln1_scale",),
        insiderows.scales("ln1_scale", "attention", "mixer"),
    ),
    _says(
        "norm before the MLP = weight * input / scale + bias",
        ("ln2_scale",),
        insiderows.scales("ln2_scale", "mlp"),
    ),
    _says(
        "final norm = weight * resid_post / scale + bias",
        ("ln_final_scale",),
        insiderows.final_scale,
    ),
    _says("norm(last resid_post) = ln_final", ("ln_final",), streamrows.final),
    _says("head(ln_final) = logits", ("logits",), streamrows.says),
    _says(
        "embed = first resid_pre, but for what no token changes",
        ("embed",),
        streamrows.embeds,
        ("resid_pre",),
    ),
)
