"""What `probekit tokens` prints: the tokens of examples, and which of them each probe keeps.

Knows rich; computes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from probekit.cli.tables import show_table
from probekit.cli.terminal import console
from probekit.errors import printable
from probekit.wording import counted, shorten

if TYPE_CHECKING:
    from probekit.config import ProbeRule
    from probekit.planning import ExampleView, TokenView


def show_tokens(views: Sequence[ExampleView], probes: Sequence[ProbeRule], n_examples: int) -> None:
    """Print examples, each as a table of its tokens."""
    out = console()
    for number, probe in enumerate(probes):
        what = ", ".join(probe.modules or probe.sites or ())
        out.print(f"probe {number}: {printable(shorten(what, 100))}, positions {_said(probe)}")
    for view in views:
        of = "" if view.prompt is None else f", sample {view.sample} of prompt {view.prompt}"
        if view.document is not None:
            of = f", document {view.document} from token {view.document_start}"
        said = of + "".join(f", {name}: {_value(value)}" for name, value in view.columns.items())
        title = f"\nexample {view.number}"
        out.print(Text.assemble((title, "bold"), f" (id {printable(view.id)}{printable(said)})"))
        is_chat = any(token.role is not None for token in view.tokens)
        rows = [
            (
                *(str(t.position), str(t.id), repr(t.text)),
                *(_of_chat(t) if is_chat else ()),
                *(_of_document(t) if view.document is not None else ()),
                " ".join(map(str, t.probes)),
            )
            for t in view.tokens
        ]
        of_chat = ("role", "turn", "content") if is_chat else ()
        place = ("in document",) if view.document is not None else ()
        show_table(out, ("position", "id", "token", *of_chat, *place, "kept by probe"), rows)
    if len(views) < n_examples:
        shown = counted(len(views), "example", of=n_examples)
        out.print(f"\n{shown}; --example NUMBER shows another")


def _said(probe: ProbeRule) -> str:
    given = probe.positions
    return ", ".join(map(str, given)) if isinstance(given, tuple) else printable(str(given))


def _of_chat(token: TokenView) -> tuple[str, str, str]:
    turn = "" if token.turn is None or token.turn < 0 else str(token.turn)
    return printable(token.role or ""), turn, "yes" if token.is_content else ""


def _of_document(token: TokenView) -> tuple[str]:
    place = token.document_position
    return ("" if place is None or place < 0 else str(place),)


def _value(value: object) -> str:
    return "none" if value is None else shorten(str(value), 40)
