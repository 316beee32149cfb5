"""Neurons: the tokens, in context, on which a neuron fires most.

Knows how to rank the rows of a site by some of its columns in one pass over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from probekit import arguments
from probekit.errors import StoreError
from probekit.extras import load_extra
from probekit.store import EXAMPLE, TOKEN
from probekit.trace import Marked, Shown, Table, axis_rows, examples_of, float64, row_slices
from probekit.wording import counted

if TYPE_CHECKING:
    from probekit.trace import Site

Array = np.ndarray[Any, Any]
Neuron = int | tuple[int, ...]  # its number, or one a feature axis: (head, d_head)


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """One row on which a neuron fires."""

    value: float
    row: int  # of the site
    example: int
    position: int | None  # of the row in its example; None where a row is a whole example
    context: Marked

    def __str__(self) -> str:
        return f"{self.value:.4g}  {self.context}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TopExamples(Shown, Sequence[Firing]):
    """The rows on which a neuron fires most, the strongest first."""

    site: str
    neuron: Neuron
    n_rows: int  # how many were looked at
    firings: tuple[Firing, ...]

    def __getitem__(self, place: Any) -> Any:
        return self.firings[place]

    def __len__(self) -> int:
        return len(self.firings)

    def to_pandas(self) -> Any:
        """Give a `pandas.DataFrame` with one row a firing."""
        pandas = load_extra("pandas", extra="analysis", purpose="to_pandas()")
        rows = [
            (f.value, f.row, f.example, f.position, f.context.token, str(f.context)) for f in self
        ]
        columns = ["value", "row", "example", "position", "token", "context"]
        return pandas.DataFrame(rows, columns=columns)

    def _table(self) -> Table:
        top = counted(len(self), "row", of=self.n_rows)
        return Table(
            title=f"{self.site}, neuron {self.neuron}: the top {top}",
            columns=("value", "example", "position", "context"),
            rows=[(f.value, f.example, f.position, f.context) for f in self.firings],
        )


def top_examples(
    site: Site, neuron: Neuron, k: int, *, smallest: bool, one_per_example: bool, around: int
) -> TopExamples:
    """Find the rows on which a neuron fires most; see `Trace.top_examples`."""
    k = arguments.whole("k", k, least=1)
    around = arguments.whole("around", around, least=0)
    column = column_of(site, neuron)
    (best,) = top_rows(site, [column], k, smallest=smallest, one_per_example=one_per_example)
    return TopExamples(
        site=site.name,
        neuron=neuron,
        n_rows=len(site),
        firings=tuple(
            _firing(site, int(row), float(value), around) for row, value in zip(*best, strict=True)
        ),
    )


def column_of(site: Site, neuron: Neuron) -> int:
    """Give a neuron's place in a row that is laid flat.

    Args:
        site: with any number of feature axes; of attention there are no neurons.
        neuron: its number in the model, or one for each axis of a row; negative ones count from
            the end of what was recorded.

    Raises:
        StoreError: if it was not recorded; the message says what was.
    """
    given = neuron if isinstance(neuron, tuple) else (neuron,)
    axes, wanted = site.axes[1:], tuple(arguments.whole("neuron", number) for number in given)
    if axes[-1:] == ("key",):
        raise StoreError(f"{site.name} holds attention, whose keys are tokens and no neurons")
    if len(wanted) != len(axes):
        example = f"({', '.join(axes)})" if len(axes) != 1 else f"the number of a {axes[0]}"
        raise StoreError(
            f"{site.name} has rows of [{', '.join(axes)}]; neuron {neuron} does not fit: "
            f"expected {example}"
        )
    column = 0
    for axis, number, size in zip(axes, wanted, site.shape[1:], strict=True):
        there = site.numbers(axis)
        if number not in there and not -size <= number < 0:
            raise StoreError(
                f"{site.name}: {axis} {number} was not recorded; recorded: {_range(there)}"
            )
        column = column * size + (there.index(number) if number in there else number % size)
    return column


def top_rows(
    site: Site,
    columns: Sequence[int],
    k: int,
    *,
    smallest: bool = False,
    one_per_example: bool = False,
) -> list[tuple[Array, Array]]:
    """Rank the rows of a site by each of some columns, in one pass over the rows.

    Args:
        site: its rows are laid flat, so that `columns` count over all feature axes.
        columns: places in a flat row.
        k: how many rows at most.
        smallest: the smallest values instead of the largest.
        one_per_example: of each example, only its best row.

    Returns:
        For each column, which rows, int64 `[row]`, and their values, float64 `[row]`: the best
        first, the earlier first of equal ones. NaN is never among them.
    """
    places = np.unravel_index(np.asarray(columns, dtype=np.intp), site.shape[1:] or (1,))
    best = [_NOTHING] * len(columns)
    for rows in row_slices(len(site), site.shape[1:]):
        picked = site[(rows, *places)] if site.shape[1:] else site[rows][:, None]
        values = float64(picked)  # [row, column]
        numbers = np.arange(rows.start, rows.stop)
        examples = examples_of(site, rows) if one_per_example else numbers
        best = [
            _best(_Ranked(*map(np.concatenate, zip(old, new, strict=True))), k, smallest)
            for old, new in zip(
                best, (_Ranked(numbers, v, examples) for v in values.T), strict=True
            )
        ]
    return [(found.rows, found.values) for found in best]


class _Ranked(NamedTuple):
    rows: Array
    values: Array
    examples: Array  # what there may be one row of


_NOTHING = _Ranked(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0, dtype=np.int64))


def _best(found: _Ranked, k: int, smallest: bool) -> _Ranked:
    """Keep the best rows, best first, and of what shares an example only the first."""
    key = np.where(np.isnan(found.values), np.inf, found.values if smallest else -found.values)
    order = np.lexsort((found.rows, np.isnan(found.values), key))
    order = order[: len(order) - np.count_nonzero(np.isnan(found.values))]
    _, first = np.unique(found.examples[order], return_index=True)
    order = order[np.sort(first)][:k]
    return _Ranked(*(column[order] for column in found))


def _firing(site: Site, row: int, value: float, around: int) -> Firing:
    trace = site.trace
    if site.axis == EXAMPLE:
        context = Marked("", "", trace.examples[row].text)
        return Firing(value=value, row=row, example=row, position=None, context=context)
    (place,) = axis_rows(site, slice(row, row + 1))
    if site.axis == TOKEN:
        token = trace.tokens[int(place)]
        example, position = token.example, token.position
        ids, text = trace.examples.token_ids(example).tolist(), trace.vocabulary.text
        before, after = ids[max(0, position - around) : position], ids[position + 1 :][:around]
        context = Marked(text(before), token.text, text(after))
    else:
        table = trace.table(site.axis)
        example, position = int(table.example[place]), int(table.position[place])
        context = Marked("", f"{site.axis} {position}", "")
    return Firing(value=value, row=row, example=example, position=position, context=context)


def _range(numbers: tuple[int, ...]) -> str:
    if numbers == tuple(range(len(numbers))):
        return f"0 to {len(numbers) - 1}"
    shown = ", ".join(map(str, numbers[:12]))
    return shown if len(numbers) <= 12 else f"{shown}, ... ({len(numbers)} of them)"
