"""Prompts: what a model was given, each with all that it said of it.

Knows which examples share a prompt; an example that shares it with nobody is one by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from probekit import arguments
from probekit.errors import StoreError
from probekit.store import Scalar
from probekit.trace.examples import Example, Examples
from probekit.wording import counted, numbered

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt, and what the model said of it."""

    number: int  # in the run
    id: str
    text: str
    columns: Mapping[str, Scalar]  # values of the user's own, by name; None where there is none
    examples: tuple[int, ...]  # numbers of the examples that go on from it, in the trace
    completions: tuple[str, ...]  # what the model said in each of them


class Prompts(Sequence[Prompt]):
    """The prompts of a trace, read one at a time."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __repr__(self) -> str:
        said = f"{counted(len(self), 'prompt')}, {counted(len(self._examples), 'example')}"
        return f"<Prompts: {said}>"

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        number, there = arguments.whole("prompt", number), len(self)
        if not -there <= number < there:
            raise IndexError(f"prompt {number} is out of range: {numbered(there)}")
        begin, end = self._ends[number % there], self._ends[number % there + 1]
        examples: list[Example] = self._examples[int(begin) : int(end)]
        first = examples[0]
        return Prompt(
            number=first.prompt,
            id=first.id.removesuffix(f":{first.sample}") if self._examples.shares else first.id,
            text=first.text,
            columns=first.columns,
            examples=tuple(example.number for example in examples),
            completions=tuple(example.completion for example in examples),
        )

    @cached_property
    def _ends(self) -> Array:
        """Where the examples of each prompt end, behind a first 0: int64 `[prompt + 1]`."""
        if not self._examples.shares:
            return np.arange(len(self._examples) + 1)
        rises = np.diff(self._examples.prompt[:])
        if (rises < 0).any():
            raise StoreError(f"{self._examples.place}: the prompts of its examples do not rise")
        return np.concatenate([[0], np.flatnonzero(rises) + 1, [len(self._examples)]])
