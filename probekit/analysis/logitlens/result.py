"""What a logit lens found, layer by layer and token by token.

Knows arrays of results and the tokens they are about; neither models nor torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.extras import load_extra
from probekit.methods import results as methods
from probekit.trace import Shown, Table
from probekit.wording import counted

if TYPE_CHECKING:
    from probekit.trace import Trace

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How the last layer through the lens agrees with what the model itself said in the run."""

    site: str  # what was recorded: "lm_head/top_k.logprob"
    n_values: int  # log-probabilities that were compared
    mean_difference: float  # of log-probabilities, in nats
    largest_difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LensLayer:
    """One layer through the lens: means over all tokens, of ranks the median."""

    layer: int
    site: str
    rank: float  # of the token that came next; 1 is the likeliest
    logprob: float  # of the token that came next, nats
    kl: float  # KL(final || layer), nats
    entropy: float  # nats
    agrees: float  # the share of tokens after which it says what the last layer says


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class LensExample(Shown):
    """One example through the lens."""

    number: int
    tokens: tuple[str, ...]  # [token]
    layers: tuple[int, ...]
    rank: Array  # int32 [layer, token]
    logprob: Array  # float32 [layer, token]
    kl: Array  # float32 [layer, token]
    entropy: Array  # float32 [layer, token]
    said: tuple[tuple[str, ...], ...]  # [layer][token]: the likeliest next token
    probability: Array  # float32 [layer, token]: of what is said

    plot = methods.plot_lens_example

    def _table(self) -> Table:
        return Table(
            title=f"example {self.number}: the likeliest next token after each layer",
            columns=("layer", *self.tokens),
            rows=[
                (layer, *(f"{word} {p:.0%}" for word, p in zip(words, row, strict=True)))
                for layer, words, row in zip(self.layers, self.said, self.probability, strict=True)
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Lens(Shown):
    """What the residual stream of every layer says, token by token."""

    trace: Trace
    sites: tuple[str, ...]  # by layer
    layers: tuple[int, ...]
    rows: Array  # int64 [token]: which tokens of the trace
    rank: Array  # int32 [layer, token]: of the token that came next, 1 the likeliest; 0 where none
    logprob: Array  # float32 [layer, token]: of the token that came next, nats; NaN where none did
    kl: Array  # float32 [layer, token]: KL(final || layer), nats
    entropy: Array  # float32 [layer, token]: of what the layer says, nats
    top_ids: Array  # int32 [layer, token, k]: the likeliest next tokens, the likeliest first
    top_logprob: Array  # float32 [layer, token, k]
    final_ids: Array  # int32 [token]: what the model says in the end
    agreement: tuple[Agreement, ...]  # empty where the run recorded nothing the model said

    @property
    def by_layer(self) -> tuple[LensLayer, ...]:
        """Every layer's means over all tokens."""
        came_next = self.rank[0] > 0
        return tuple(
            LensLayer(
                layer=layer,
                site=self.sites[number],
                rank=float(np.median(self.rank[number][came_next])) if came_next.any() else nan,
                logprob=_mean(self.logprob[number][came_next]),
                kl=_mean(self.kl[number]),
                entropy=_mean(self.entropy[number]),
                agrees=_mean(self.top_ids[number, :, 0] == self.final_ids),
            )
            for number, layer in enumerate(self.layers)
        )

    def example(self, number: int) -> LensExample:
        """Give one example: which tokens every layer says would come next."""
        number = self.trace.examples.number(number)
        first, n_tokens = self.trace.examples.extent(number)
        begin, end = map(int, np.searchsorted(self.rows, (first, first + n_tokens)))
        part = slice(begin, end)
        ids = self.top_ids[:, part, 0]
        return LensExample(
            number=number,
            tokens=tuple(self.trace.tokens[int(row)].text for row in self.rows[part]),
            layers=self.layers,
            rank=self.rank[:, part],
            logprob=self.logprob[:, part],
            kl=self.kl[:, part],
            entropy=self.entropy[:, part],
            said=tuple(tuple(self.trace.token_text(int(i)) for i in row) for row in ids),
            probability=np.exp(self.top_logprob[:, part, 0]),
        )

    def to_pandas(self) -> Any:
        """Give a `pandas.DataFrame` with one row for every layer and token."""
        pandas = load_extra("pandas", extra="analysis", purpose="to_pandas()")
        n_layers, n_tokens = self.rank.shape
        tokens = self.trace.tokens
        words = [self.trace.token_text(int(i)) for i in tokens.id[self.rows]]
        by_token = {
            "row": self.rows,
            "example": tokens.example[self.rows],
            "position": tokens.position[self.rows],
            "token": np.array(words, dtype=object),
        }
        return pandas.DataFrame(
            {
                "layer": np.repeat(self.layers, n_tokens),
                **{name: np.tile(column, n_layers) for name, column in by_token.items()},
                "rank": self.rank.reshape(-1),
                "logprob": self.logprob.reshape(-1),
                "kl": self.kl.reshape(-1),
                "entropy": self.entropy.reshape(-1),
                "said": [self.trace.token_text(int(i)) for i in self.top_ids[..., 0].reshape(-1)],
                "probability": np.exp(self.top_logprob[..., 0].reshape(-1)),
            }
        )

    plot = methods.plot_lens

    def _table(self) -> Table:
        said = [
            f"the last layer gives {a.site} to {a.mean_difference:.1g} nats in the mean, "
            f"{a.largest_difference:.1g} at most"
            for a in self.agreement
        ]
        return Table(
            title=f"{self.trace.path}: logit lens over {counted(len(self.rows), 'token')}",
            columns=("layer", "median rank of next", "its log-probability", "KL to the final",
                     "entropy", "says what the final does"),
            rows=[
                (m.layer, m.rank, m.logprob, m.kl, m.entropy, f"{m.agrees:.0%}")
                for m in self.by_layer
            ],
            note="; ".join(["in nats", *said]),
        )  # fmt: skip


def _mean(values: Array) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else nan
