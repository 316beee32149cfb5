"""CKAMatrix: how alike every layer of one trace is to every layer of another.

Knows the numbers that were found; how they are found is in cka.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.extras import load_extra
from probekit.methods import results as methods
from probekit.trace import Shown, Table
from probekit.wording import counted

if TYPE_CHECKING:
    pass

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class CKAMatrix(Shown):
    """Linear CKA of every layer of one trace with every layer of the other."""

    place: str
    a_model: str
    b_model: str
    a: tuple[str, ...]  # names of the sites in the first trace
    b: tuple[str, ...]
    a_layers: tuple[str, ...]  # what to call them: "0", "1", ...
    b_layers: tuple[str, ...]
    values: Array  # float64 [a, b]
    debiased: Array  # float64 [a, b]
    n_rows: int
    n_left_out: int

    def to_pandas(self, *, debiased: bool = False) -> Any:
        """Give a `pandas.DataFrame` with the layers of the first trace down, of the other across.

        Args:
            debiased: the debiased values.
        """
        pandas = load_extra("pandas", extra="analysis", purpose="to_pandas()")
        values = self.debiased if debiased else self.values
        return pandas.DataFrame(values, index=list(self.a_layers), columns=list(self.b_layers))

    plot = methods.plot_matrix

    def _table(self) -> Table:
        return Table(
            title=f"linear CKA at {self.place}: layers of {self.a_model} down, of {self.b_model} "
            "across",
            columns=("", *self.b_layers),
            rows=[(n, *map(float, row)) for n, row in zip(self.a_layers, self.values, strict=True)],
            note=f"over {counted(self.n_rows, 'row')}",
        )
