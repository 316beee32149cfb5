"""write_report: choose what fits, pack it, and write one page.

Knows the order of the page's parts and the budget; each part is made elsewhere.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probekit import arguments
from probekit.errors import StoreError
from probekit.report import (
    attention,
    example,
    execution,
    experts,
    lensing,
    neurons,
    overview,
    page,
    scores,
    streams,
)
from probekit.report.blocks import Block, BlockFile
from probekit.report.parts import Roles, roles_of
from probekit.store import new_name
from probekit.trace import Trace, visible_token
from probekit.wording import counted

EXAMPLES = 8
NEURONS = 32
MAX_BYTES = 128 << 20
_PAGE_BYTES = 512 << 10  # kept free for the page itself: its code, its styles, the config
_LEAST_BYTES = 1 << 20
_HEAD_BYTES = 16 << 10  # of a page, its title in them
_EXCERPT = 80  # characters of a text in the list of examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report that was written."""

    path: Path
    n_bytes: int
    examples: tuple[int, ...]  # numbers of those that are in it
    left_out: tuple[str, ...]  # what is not, and why


def write_report(
    trace: Trace,
    path: str | Path,
    *,
    examples: int | Sequence[int] = EXAMPLES,
    neurons: int = NEURONS,
    lens: bool = True,
    max_bytes: int = MAX_BYTES,
    overwrite: bool = False,
) -> Report:
    """Write a page that shows a trace: one HTML file that opens without a network or a server.

    Attention weights are rounded, and the page says how far: to within 0.00005; in examples of more
    than 4 million weights those below 0.02 to about an eighth of 1 / tokens. Other numbers have six
    significant digits, those of the overview and of the lens four.

    All examples are listed. The logit lens is there where `resid_post` was recorded and the final
    norm and the unembedding of the model lie on this machine: nothing is downloaded for it, and no
    code that comes with a model runs.

    Args:
        trace: what to show.
        path: the HTML file; an earlier report that is there is replaced.
        examples: the first so many, or the numbers of those to show.
        neurons: how many of each site's neurons to include, the liveliest. To find them, every
            row of these sites is read three times; 0 leaves that out.
        lens: whether to look through the logit lens, for which torch is imported.
        max_bytes: how large the file may become; what does not fit is left out, and said so.
        overwrite: whether a file of this name that is no report may be replaced.

    Raises:
        StoreError: if an example or an option is out of range, if something is there that must
            stay, or if the file cannot be written.
    """
    path, numbers = arguments.path("path", path), _chosen(trace, examples)
    neurons = arguments.whole("neurons", neurons)
    max_bytes = arguments.whole("max_bytes", max_bytes)
    if neurons < 0:
        raise StoreError(f"neurons: given {neurons}, expected a number from 0 up")
    if max_bytes < _LEAST_BYTES:
        raise StoreError(f"max_bytes: given {max_bytes}, expected at least {_LEAST_BYTES} (1 MiB)")
    if path.exists() and path.samefile(trace._file):
        raise StoreError(f"{path}: is the trace itself; give another name")
    target = new_name(path, overwrite=overwrite, is_ours=("report of probekit", _is_report))
    roles = roles_of(trace)
    try:
        with tempfile.TemporaryFile(dir=target.parent) as spool:
            parts = _Parts(trace, roles, BlockFile(spool, max_bytes - _PAGE_BYTES))
            parts.add_overview()
            parts.add_columns()
            parts.add_neurons(neurons)
            parts.add_experts()
            parts.add_execution()
            parts.look_through_lens(numbers, wanted=lens)
            parts.add_examples(numbers)
            parts.add_scores()
            parts.say_of_the_rest(numbers)
            before, after = page.render(trace, roles, parts.start(), tuple(parts.left_out))
            spool.seek(0)
            _write(target, before, spool, after)
    except OSError as error:  # a full disk, a folder that is not there
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
    return Report(
        path=path,
        n_bytes=path.stat().st_size,
        examples=tuple(e["number"] for e in parts.examples),
        left_out=tuple(parts.left_out),
    )


def _chosen(trace: Trace, examples: int | Sequence[int]) -> tuple[int, ...]:
    there = len(trace.examples)
    if isinstance(examples, str) or not isinstance(examples, Iterable):
        n_examples = arguments.whole("examples", examples)
        if n_examples < 1:
            raise StoreError(f"examples: given {examples}, expected at least 1")
        return tuple(range(min(n_examples, there)))
    examples = [arguments.whole("a number of examples", number) for number in examples]
    if not examples:
        raise StoreError("examples: given none, expected at least one")
    if wrong := [n for n in examples if not -there <= n < there]:
        raise StoreError(
            f"{trace.path}: example {wrong[0]} is out of range: there are {there} (0..{there - 1})"
        )
    return tuple(dict.fromkeys(n % there for n in examples))


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return head.startswith(b"<!doctype html>") and b" probekit report</title>" in head


def _write(path: Path, before: str, spool: Any, after: str) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(before.encode())
            shutil.copyfileobj(spool, file)
            file.write(after.encode())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class _Parts:
    """Adds the parts of a page as long as there is room, and remembers what is in it."""

    def __init__(self, trace: Trace, roles: Roles, blocks: BlockFile) -> None:
        self._trace = trace
        self._roles = roles
        self._blocks = blocks
        self._looked = lensing.Looked(lens=None)
        self.overview = False
        self.columns = False
        self.scores = False
        self.opens = {"map": 0, "column": 0, "why": ""}  # the head that is open at first
        self.lens: dict[str, Any] = {"why": None, "by_example": False}
        self.examples: list[dict[str, Any]] = []
        self.neurons: list[dict[str, Any]] = []
        self.experts = False
        self.execution = False
        self.left_out: list[str] = []

    def start(self) -> dict[str, Any]:
        """Give what the page must know before it opens a block."""
        return {
            "overview": self.overview,
            "columns": self.columns,
            "scores": self.scores,
            "opens": self.opens,
            "lens": self.lens,
            "examples": self.examples,
            "neurons": self.neurons,
            "experts": self.experts,
            "execution": self.execution,
        }

    def _add(self, name: str, value: Any, what: str) -> bool:
        """Add plain JSON values as a block, or remember that there was no room for them."""
        added = self._blocks.add([Block.of_json(name, value)])
        if not added:
            self.left_out.append(f"{what}: no room (--max-bytes)")
        return added

    def add_overview(self) -> None:
        found = overview.describe(self._trace, self._roles)
        self.left_out += found.left_out
        self.overview = self._add("overview", found.listed, "the overview of all examples")

    def add_columns(self) -> None:
        if self._roles.columns:
            found = streams.by_example(self._trace, self._roles)
            self.columns = self._add("columns", found, "norms by example")
            if (less := len(self._trace.examples) - found["n_shown"]) and self.columns:
                self.left_out.append(f"norms by example: those of {counted(less, 'example')} more")

    def look_through_lens(self, numbers: tuple[int, ...], *, wanted: bool) -> None:
        if not lensing.is_recorded(self._trace):
            return
        if not wanted:
            self.lens["why"] = "it was not asked for (--no-lens)"
            return
        self._looked = found = lensing.look(self._trace, numbers)
        self.lens = {"why": found.why, "by_example": found.by_example}
        if found.lens is None:
            return
        if found.by_example:
            columns = lensing.describe_columns(self._trace, found.lens)
            if not self._add("lens", columns, "the lens"):
                self.lens["why"] = "there was no room (--max-bytes)"
        asked = len(numbers) if not found.by_example else len(self._trace.examples)
        if less := asked - len(found.examples):
            more = counted(less, "example")
            self.left_out.append(f"the lens of {more} more: it takes long; see probekit.lens()")

    def add_scores(self) -> None:
        numbers = [one["number"] for one in self.examples if one["attention"]]
        if numbers:
            found = scores.describe(self._trace, self._roles, numbers)
            self.opens = found["opens"]
            if found["why"]:
                self.left_out.append(f"the head scores: {found['why']}")
            self.scores = self._add("scores", found, "the head scores")

    def add_neurons(self, n_neurons: int) -> None:
        if self._roles.neurons and not n_neurons:
            self.left_out.append("neurons: not asked for (--neurons)")
            return
        for place, site in enumerate(self._roles.neurons):
            found = neurons.describe(self._trace, site, n_neurons)
            if self._add(f"neurons-{place}", found, f"the neurons of {site.name}"):
                name = visible_token(site.name.removesuffix("/output"))
                about = {"block": f"neurons-{place}", "name": name, "n_all": site.shape[1]}
                self.neurons.append(about)

    def add_experts(self) -> None:
        if not self._roles.experts:
            return
        try:
            found = experts.loads(self._roles)
        except StoreError as error:  # a stranger's numbers: show the rest, and say what is wrong
            self.left_out.append(f"the experts: {error}")
            return
        self.experts = self._add("experts", found, "the experts")

    def add_execution(self) -> None:
        if (found := self._trace.execution) is not None:
            described = execution.describe(self._trace, found)
            self.execution = self._add("execution", described, "the execution order")

    def add_examples(self, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            found = example.describe(self._trace, self._roles, number)
            if not self._blocks.add([Block.of_json(f"{number}-example", found)]):
                return
            self.examples.append(
                {
                    "number": number,
                    "excerpt": visible_token(self._trace.examples[number].text[:_EXCERPT]),
                    "n_tokens": len(found["tokens"]),
                    "n_generated": sum(step > 0 for step in found["steps"] or ()),
                    "attention": self._add_attention(number),
                    "experts": self._add_experts_of(number),
                    "lens": self._add_lens_of(number),
                }
            )

    def _add_attention(self, number: int) -> bool:
        if not self._roles.attention:
            return False
        added = self._blocks.add(attention.attention_blocks(self._trace, self._roles, number))
        if not added:
            _, n_tokens = self._trace.examples.extent(number)
            self.left_out.append(
                f"the attention of example {number} ({counted(n_tokens, 'token')}): "
                "no room (--max-bytes)"
            )
        return added

    def _add_experts_of(self, number: int) -> bool:
        if not self.experts:
            return False
        found = experts.describe(self._trace, self._roles, number)
        return self._add(f"{number}-experts", found, f"the experts of example {number}")

    def _add_lens_of(self, number: int) -> bool:
        looked = self._looked
        if looked.lens is None or looked.by_example or number not in looked.examples:
            return False
        found = lensing.describe(self._trace, looked.lens, number)
        return self._add(f"{number}-lens", found, f"the lens of example {number}")

    def say_of_the_rest(self, numbers: tuple[int, ...]) -> None:
        there, shown = len(self._trace.examples), len(self.examples)
        if lost := numbers[shown:]:
            self.left_out.append(
                f"{counted(len(lost), 'example')} from number {lost[0]} on: no room (--max-bytes)"
            )
        if rest := there - len(numbers):
            what = ": listed, but not in full" if self.overview else " not asked for"
            self.left_out.append(f"{counted(rest, 'example', of=there)}{what} (--examples)")
