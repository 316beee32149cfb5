"""Sorting: what a source holds, as examples to go on with and faults to tell together.

Knows what is wrong with an example before it is tokenized, and ids that are another's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from probekit.errors import ConfigError, Fault
from probekit.inputs.examples import Limits
from probekit.inputs.rows import Blank, Found, Given
from probekit.inputs.usercolumns import storable
from probekit.wording import counted

_FAULTS_SHOWN, _AND_MORE = 20, "; there may be more of them: reading ended here"
_DIGITS = 18  # of an id that is a number


class Sorting:
    """What a source holds, sorted: examples to go on with, faults to tell together, blank lines."""

    def __init__(self, found: Iterable[Found], limit: int | None, where: str) -> None:
        self._found, self._limit, self._where = found, limit, where
        self.faults: list[Fault] = []
        self.n_blank = 0
        self._foreign: Fault | None = None  # of the first text with tokens that the model has not
        self._n_foreign = 0
        self._numbered, self._given = array("q"), array("q")  # ids that are a number

    def examples(self) -> Iterator[Given]:
        """Give the examples, as many as are wanted.

        Raises:
            ConfigError: after so many faults as are shown at once.
        """
        n_taken = 0
        for one in self._found:
            if isinstance(one, Blank):
                self.n_blank += 1
                continue
            n_taken += 1
            fault = one if isinstance(one, Fault) else _unfit(one)
            if fault is not None:
                self.tell(fault)
            elif isinstance(one, Given):
                self._see_id(one)
                yield one
            if n_taken == self._limit:  # and no row more is asked for
                return

    def tell(self, fault: Fault) -> None:
        """Note what is wrong with a text; raise when there is more than anyone reads."""
        self.faults.append(fault)
        if len(self.faults) == _FAULTS_SHOWN:
            self.faults[-1] = Fault(fault.where, f"{fault.message}{_AND_MORE}")
            raise ConfigError.of(self.all_faults())

    def tell_foreign(self, text: Given, id: int, limits: Limits) -> None:
        """Note a token that the model has not: once for all texts, which will have more of them."""
        self._n_foreign += 1
        if self._foreign is None:
            self._foreign = Fault(
                text.where,
                f"token id {id} is out of the model's vocabulary (0..{limits.d_vocab - 1}); the "
                "tokenizer does not belong to this model",
            )
        if self._n_foreign == _FAULTS_SHOWN:
            raise ConfigError.of(self.all_faults(" at least"))

    def all_faults(self, least: str = "") -> list[Fault]:
        """Give what was told, and the tokens that the model has not."""
        if self._foreign is None:
            return self.faults
        n = self._n_foreign - 1
        more = f"; so it is in {counted(n, 'more text')}{least}" if n else ""
        return [*self.faults, Fault(self._foreign.where, self._foreign.message + more)]

    def _see_id(self, text: Given) -> None:
        if text.id.isdecimal() and len(text.id) <= _DIGITS and str(int(text.id)) == text.id:
            (self._numbered if text.is_numbered else self._given).append(int(text.id))

    def check_ids(self) -> None:
        """Tell of texts without an id whose number is another's id."""
        for number in np.intersect1d(self._numbered, self._given)[:_FAULTS_SHOWN].tolist():
            what = f"the text of number {number} has no id, and {number} is the id of another"
            self.tell(Fault(self._where, f"{what}; give an id to all of them, or to none"))


def _unfit(given: Given) -> Fault | None:
    said = given.said if isinstance(given.said, str) else ""
    for name, value in (("text", said), ("id", given.id)):
        if not storable(value):
            return Fault(given.where, f"the {name} has a NUL character or a lone surrogate")
    return None
