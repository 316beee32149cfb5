"""What `probekit tokens` prints: the tokens of examples, and which of them each probe keeps.

Knows rich; computes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from probekit.cli.terminal import console, table_of
from probekit.errors import printable
from probekit.wording import shorten

if TYPE_CHECKING:
    from probekit.config import ProbeRule
    from probekit.planning import ExampleView


def show_tokens(views: Sequence[ExampleView], probes: Sequence[ProbeRule], n_examples: int) -> None:
    """Print examples, each as a table of its tokens."""
    out = console()
    for number, probe in enumerate(probes):
        what = ", ".join(probe.modules or probe.sites or ())
        out.print(f"probe {number}: {printable(shorten(what, 100))}, positions {_said(probe)}")
    for view in views:
        said = "".join(f", {name}: {_value(value)}" for name, value in view.columns.items())
        title = f"\nexample {view.number}"
        out.print(Text.assemble((title, "bold"), f" (id {printable(view.id)}{printable(said)})"))
        table = table_of("position", "id", "token", "kept by probe")
        for token in view.tokens:
            kept = " ".join(map(str, token.probes))
            table.add_row(str(token.position), str(token.id), repr(token.text), kept)
        out.print(table)
    if len(views) < n_examples:
        out.print(f"\n{len(views)} of {n_examples:,} examples; --example NUMBER shows another")


def _said(probe: ProbeRule) -> str:
    given = probe.positions
    return ", ".join(map(str, given)) if isinstance(given, tuple) else printable(str(given))


def _value(value: object) -> str:
    return "none" if value is None else shorten(str(value), 40)
