"""Head scores: how much every attention head is an induction, previous-token or duplicate head.

Knows recorded patterns and the tokens they are over; nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit import arguments
from probekit.errors import StoreError
from probekit.extras import load_extra
from probekit.methods import results as methods
from probekit.trace import (
    ATTENTION,
    Patterns,
    Shown,
    Table,
    axis_rows,
    blocks,
    choose_sites,
    examples_of,
    float64,
    recorded,
    row_slices,
)
from probekit.wording import counted

if TYPE_CHECKING:
    from probekit.trace import Site, Trace

Array = np.ndarray[Any, Any]

KINDS = ("induction", "previous_token", "duplicate_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadScore:
    """One head's scores, each from 0 to 1; NaN where no token of the texts can show it."""

    site: str
    layer: int | None
    head: int
    induction: float
    previous_token: float
    duplicate_token: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class HeadScores(Shown, Sequence[HeadScore]):
    """The scores of every recorded head, by layer and head.

    Each is a mean, over the tokens that can show it, of the attention (0 to 1) on

    - previous token: the token just before;
    - duplicate token: earlier occurrences of the same token (Wang et al. 2022, "Interpretability in
      the Wild", name these heads);
    - induction: the tokens that came after earlier occurrences of the same token, itself left out.
      This is the prefix-matching score of Olsson et al. 2022, "In-context Learning and Induction
      Heads", but for one thing: they average over the matching keys, and here attention is summed
      over them, so that a head that looks at one of several is not less of one.

    Heads are told apart best on random tokens that repeat, as there; on plain text compare with
    `uniform`, what a head would score that looks at every token so far alike. Padding is never in
    it; a text of one token, and one in which nothing occurs twice, shows nothing.
    """

    path: str
    heads: tuple[HeadScore, ...]
    n_queries: dict[str, int]  # over how many tokens each kind of score is a mean
    uniform: dict[str, float]  # what a head scores that attends to all earlier tokens alike

    def __getitem__(self, place: Any) -> Any:
        return self.heads[place]

    def __len__(self) -> int:
        return len(self.heads)

    def best(self, kind: str, k: int = 5) -> tuple[HeadScore, ...]:
        """Give the heads that score highest.

        Args:
            kind: "induction", "previous_token" or "duplicate_token".
            k: how many.

        Raises:
            StoreError: if there is no such kind of score, or no token that can show it.
        """
        _check_kind(kind)
        if not self.n_queries[kind]:
            raise StoreError(f"{self.path}: nothing in these texts can show {kind} heads")
        return tuple(sorted(self.heads, key=lambda head: -getattr(head, kind)))[:k]

    def matrix(self, kind: str) -> tuple[Array, tuple[str, ...], tuple[int, ...]]:
        """Give the scores of a kind as a matrix, NaN where a head was not recorded.

        Returns:
            float64 `[site, head]`, the names of the sites, and the numbers of the heads.
        """
        _check_kind(kind)
        sites = tuple(dict.fromkeys(head.site for head in self.heads))
        numbers = tuple(sorted({head.head for head in self.heads}))
        scores = np.full((len(sites), len(numbers)), np.nan)
        for head in self.heads:
            scores[sites.index(head.site), numbers.index(head.head)] = getattr(head, kind)
        return scores, sites, numbers

    def to_pandas(self) -> Any:
        """Give a `pandas.DataFrame` with one row a head."""
        pandas = load_extra("pandas", extra="analysis", purpose="to_pandas()")
        names = [field.name for field in fields(HeadScore)]
        return pandas.DataFrame([{n: getattr(h, n) for n in names} for h in self.heads])

    plot = methods.plot_head_scores

    def _table(self) -> Table:
        said = "; ".join(
            f"{kind} over {counted(self.n_queries[kind], 'token')}, "
            f"{self.uniform[kind]:.2g} if uniform"
            for kind in KINDS
        )
        ranked = sorted(self.heads, key=lambda h: -np.nanmax([0, *(getattr(h, k) for k in KINDS)]))
        return Table(
            title=f"{self.path}: scores of {counted(len(self), 'head')}, the highest first",
            columns=("layer", "head", *(kind.replace("_", " ") for kind in KINDS)),
            rows=[
                (h.site if h.layer is None else h.layer, h.head, *(getattr(h, k) for k in KINDS))
                for h in ranked
            ],
            note=said,
        )


def _check_kind(kind: str) -> None:
    if arguments.text("kind", kind) not in KINDS:
        raise StoreError(f"there is no kind of head {kind!r}; expected one of: {', '.join(KINDS)}")


def head_scores(
    trace: Trace, sites: Patterns | None, examples: Sequence[int] | None = None
) -> HeadScores:
    """Score every recorded head, over all examples or some; see `Trace.head_scores`."""
    chosen = _patterns(trace, sites)
    tallies = [_tally(site, examples) for site in chosen]
    n_queries = tallies[0].n_queries
    heads = [
        HeadScore(
            site=site.name,
            layer=site.layer,
            head=number,
            **dict(zip(KINDS, map(float, scores), strict=True)),
        )
        for site, tally in zip(chosen, tallies, strict=True)
        for number, scores in zip(
            site.numbers("head"), _mean(tally.sums, n_queries[:, None]).T, strict=True
        )
    ]
    uniform = _mean(tallies[0].uniform, n_queries)
    return HeadScores(
        path=str(trace.path),
        heads=tuple(heads),
        n_queries=dict(zip(KINDS, map(int, n_queries), strict=True)),
        uniform=dict(zip(KINDS, map(float, uniform), strict=True)),
    )


def _patterns(trace: Trace, sites: Patterns | None) -> list[Site]:
    chosen = [
        site
        for site in choose_sites(trace, sites)
        if site.axes == ATTENTION and site.kind.startswith("pattern")
    ]
    if not chosen:
        raise StoreError(
            f"{trace.path}: no attention patterns were recorded{f' at {sites}' if sites else ''}; "
            f"add the probe `- sites: pattern`. Recorded: {recorded(trace)}"
        )
    if len({site.rows for site in chosen}) > 1:
        rows = ", ".join(sorted({f"{site.rows} ({site.name})" for site in chosen}))
        raise StoreError(
            f"{trace.path}: the patterns were recorded at different positions: {rows}; "
            "scores over different tokens cannot be compared: choose with sites="
        )
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sums:
    sums: Array  # float64 [kind, head]: attention on the tokens that a kind of head looks at
    uniform: Array  # float64 [kind]: the same of a head that looks at all earlier tokens alike
    n_queries: Array  # int64 [kind]: tokens that have something of the kind to look at


def _tally(site: Site, examples: Sequence[int] | None) -> _Sums:
    sums = np.zeros((len(KINDS), site.shape[1]))
    uniform, n_queries = np.zeros(len(KINDS)), np.zeros(len(KINDS), dtype=np.int64)
    for rows, pattern in blocks(site) if examples is None else _blocks_of(site, examples):
        for part, queries, ids in _by_example(site, rows):
            seen = pattern[part, :, : len(ids)]  # [query, head, key]
            for number, looked_at in enumerate(_targets(queries, ids)):
                sums[number] += np.einsum("qhk,qk->h", seen, looked_at)
                n_targets = looked_at.sum(1)
                uniform[number] += (n_targets / (queries + 1)).sum()
                n_queries[number] += np.count_nonzero(n_targets)
    return _Sums(sums=sums, uniform=uniform, n_queries=n_queries)


def _blocks_of(site: Site, examples: Sequence[int]) -> Iterator[tuple[slice, Array]]:
    for number in examples:
        of_example = site.rows_of(number)
        first = of_example.start
        for part in row_slices(of_example.stop - first, site.shape[1:]):
            rows = slice(first + part.start, first + part.stop)
            yield rows, float64(site[rows])


def _by_example(site: Site, rows: slice) -> Iterator[tuple[slice, Array, Array]]:
    """Part a block: which of its rows, their positions, and all token ids of their example."""
    trace = site.trace
    examples, tokens = examples_of(site, rows), axis_rows(site, rows)
    begins = np.flatnonzero(np.diff(examples, prepend=-1))
    for begin, end in zip(begins, [*begins[1:], len(examples)], strict=True):
        first, n_tokens = trace.examples.extent(int(examples[begin]))
        ids = trace.tokens.id[first : first + n_tokens]
        yield slice(int(begin), int(end)), tokens[begin:end] - first, ids


def _targets(queries: Array, ids: Array) -> tuple[Array, Array, Array]:
    """Say where each kind of head looks, in the order of `KINDS`: bool `[query, key]` each."""
    keys, at = np.arange(len(ids)), queries[:, None]
    duplicate = (ids == ids[at]) & (keys < at)
    induction = np.zeros_like(duplicate)
    induction[:, 1:] = duplicate[:, :-1] & (keys[1:] < at)
    return induction, keys == at - 1, duplicate


def _mean(sums: Array, counts: Array) -> Array:
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: nothing in the texts shows it
        means: Array = sums / counts
    return means
