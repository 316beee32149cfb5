"""Site: one recorded place, read lazily.

Knows the rows of one dataset and whose tokens they are.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit import arguments
from probekit.errors import StoreError
from probekit.methods import site as methods
from probekit.store import (
    ALL_TOKENS,
    DTYPES,
    ROW_SHAPE,
    TOKEN,
    MappedRows,
    attributes_of,
    axis_of,
    dataset_in,
    is_choice,
    open_file,
)
from probekit.trace.tables import Tables
from probekit.wording import counted, one_of

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]


class Site:
    """One recorded place, lazily read: `site[100:200]` reads those rows and gives numpy.

    Axis 0 is the rows' in all that it gives (`[]`, `raw`, `torch`, numpy), as `axes` says; of
    attention (`pattern`, `scores`) `[token, head, key]`, a row for each query. `example` alone
    gives attention head by head, as maps: `[head, query, key]`.
    """

    def __init__(self, trace: Tables, name: str) -> None:
        self._trace = trace
        self.name = name
        self.module, _, self.kind = name.partition("/")
        with open_file(trace._file) as file:
            dataset = dataset_in(file, f"sites/{name}", virtual=True)
            self.attributes: dict[str, Any] = trace._of_all_rows(attributes_of(dataset))
        self.axes: tuple[str, ...] = tuple(self._attribute("axes", list, ()))
        self.rows: str = self._attribute("rows", str, ALL_TOKENS)
        axis = axis_of(self.rows)
        self.axis: str = axis.name  # what its rows are: token, example
        self._is_inner, self._is_choice = axis.is_inner, is_choice(self.rows)
        self.layer: int | None = self._attribute("layer", int, None)
        self.portable: str | None = self._attribute("portable", str, None)
        self._data = trace._rows_at(
            f"sites/{name}",
            self.rows,
            row_shape=self._row_shape,
            dtype=self._attribute("dtype", str, None),
            fit=self._check,
        )
        self._known = trace._known_of(self._data, self.rows)

    @property
    def _row_shape(self) -> tuple[int, ...] | None:
        """The shape of a row, where the index says it."""
        said = self._attribute(ROW_SHAPE, list, None)
        are_sizes = said is not None and all(type(n) is int and n >= 0 for n in said)
        return tuple(said) if are_sizes else None

    def _attribute(self, name: str, kind: type, default: Any) -> Any:
        value = self.attributes.get(name, default)
        if not isinstance(value, kind) and value is not default:
            raise StoreError(f"{self._trace.path}: {self.name}: {name} is {value!r}, not {kind}")
        return value

    def _check(self, data: MappedRows) -> None:
        """Refuse a site that is not what it says: its rows would be given to other tokens."""
        place = f"{self._trace.path}: {self.name}"
        named = all(isinstance(axis, str) and axis.isprintable() for axis in self.axes)
        if len(self.axes) != len(data.shape) or not named:
            raise StoreError(f"{place} is {list(data.shape)}, but its axes are {list(self.axes)}")
        n_rows = self._trace.n_rows(self.rows)
        if len(data) != n_rows:
            raise StoreError(
                f"{place} has {counted(len(data), 'row')}; the trace has {n_rows:,} ({self.rows})"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first: `(tokens, d_mlp)`."""
        return self._data.shape

    @property
    def dtype(self) -> str:
        """The stored dtype, "bfloat16" among them; numpy gets that one as float32."""
        return self._data.dtype

    def __repr__(self) -> str:
        axes = ", ".join(f"{a}={n}" for a, n in zip(self.axes, self.shape, strict=True))
        maps = "; example(i): [head, query, key]" if self._has_maps else ""
        return f"<Site {self.name} [{axes}] {self.dtype}{maps}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Site, (self._trace, self.name)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, key: Any) -> Any:
        """Read rows: `[row, ...]`, axes as in `axes`; of attention `[token, head, key]`.

        Its keys are as many as the longest example has tokens; zero (`scores`: -inf) behind the
        token's own example. `example` gives one example's maps, `[head, query, key]`.
        """
        return self._known[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        found: Array = self._known.__array__(dtype, copy)
        return found

    def raw(self, key: Any) -> Any:
        """Index like `[]`, giving the stored bits: uint16 for bfloat16."""
        return self._known.raw(key)

    def example(self, number: int) -> Array:
        """Give the rows of one example.

        Returns:
            `[token, ...]`, the rows `site[site.rows_of(number)]`. Of attention (`pattern`,
            `scores`) its maps: `[head, query, key]`, where `[]` gives `[token, head, key]`, and
            keys as many as the example has tokens. The one row where the site has one row an
            example.
        """
        number = self._trace.examples.number(number)
        if not self._is_inner:
            row: Array = self._data[number]
            return row
        rows: Array = self._data[self._rows_of(number)]
        if self._has_maps:
            _, n_keys = self._trace.table(self.axis).extent(number)
            rows = rows[:, :, :n_keys].swapaxes(0, 1)
        return rows

    @property
    def _has_maps(self) -> bool:
        """Say whether `example` gives other axes than `axes`."""
        return self._is_inner and self.axes[1:] == ("head", "key")

    def rows_of(self, number: int) -> slice:
        """Say which rows are those of one example."""
        found = self._rows_of(self._trace.examples.number(number))
        self._trace._check_numbered(self.rows, found.stop)
        return found

    def _rows_of(self, number: int) -> slice:
        if not self._is_inner:
            return slice(number, number + 1)
        if self._is_choice:
            return self._trace._chosen(self.rows, number)
        first, n_rows = self._trace.table(self.axis).extent(number)
        return slice(first, first + n_rows)

    def axis_rows(self) -> Array:
        """Give, for every row, its row in the table of the site's axis, int64 `[row]`."""
        if self._is_choice:
            return self._trace.rows_of_choice(self.rows).copy()
        self._trace._check_numbered(self.rows, len(self))
        return np.arange(len(self))

    def token_rows(self) -> Array:
        """Give, for every row of the site, the row of its token in the trace, int64 `[row]`."""
        if self.axis != TOKEN:
            raise StoreError(f"{self.name} has one row for each {self.axis}, not for each token")
        return self.axis_rows()

    def numbers(self, axis: str) -> tuple[int, ...]:
        """Give, for every place along an axis, its number in the model.

        Column 1 of a site that was recorded with `neurons: [3, 17]` is neuron 17; so it is with
        `heads`. Where nothing was chosen, or einops made new axes, places are numbers.

        Args:
            axis: one of `axes`, without the first.
        """
        if axis not in self.axes[1:]:
            said = one_of(arguments.text("axis", axis), self.axes[1:])
            raise StoreError(f"{self.name}: there is no axis {axis!r} in a row; {said}")
        place = self.axes.index(axis)
        chosen = {"neuron": "neurons", "head": "heads", "kv_head": "heads"}.get(axis)
        if chosen not in self.attributes or "einops" in self.attributes:
            return tuple(range(self.shape[place]))
        numbers = tuple(self._attribute(chosen, list, ()))
        if len(numbers) != self.shape[place] or not all(isinstance(n, int) for n in numbers):
            raise StoreError(
                f"{self._trace.path}: {self.name} has {self.shape[place]} {axis}s; "
                f"its {chosen} are {list(numbers)}"
            )
        return numbers

    def torch(self, key: Any = None) -> torch.Tensor:
        """Give rows as a tensor in the stored dtype: nothing is widened.

        Writing to the tensor changes neither the file nor what others read.

        Args:
            key: what `[]` takes; only these rows are read, into memory of the tensor's own. Left
                out, all rows: mapped, not copied, where they lie in one shard as they are; copied
                where they lie in several, or compressed.

        Raises:
            StoreError: if torch has no such dtype; a trace of probekit's has none of that kind.

        Example:
            >>> acts.torch(rows)           # a batch for training, bfloat16 as it was stored
        """
        import torch

        if self.dtype not in DTYPES:
            raise StoreError(f"{self.name}: torch has no dtype {self.dtype}")
        dtype: torch.dtype = getattr(torch, self.dtype)
        place = self._known.place() if key is None else None
        if place is None or place[1] % dtype.itemsize:
            rows = np.asarray(self.raw(slice(None) if key is None else key))
            if not rows.flags.carray:  # a view of the map, or backwards
                rows = rows.copy()
            return torch.from_numpy(rows.view(f"i{dtype.itemsize}")).view(dtype)
        # Private pages (copy on write), and unlike numpy's map no file descriptor that stays open.
        file, offset = place
        whole = torch.from_file(
            str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8
        )
        n_bytes = prod(self.shape) * dtype.itemsize
        return whole[offset : offset + n_bytes].view(dtype).view(self.shape)

    trace = methods.TraceOf()
    statistics = methods.statistics
    plot = methods.plot
    _repr_html_ = methods._repr_html_
