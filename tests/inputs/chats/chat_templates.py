"""Chat templates in their essential shapes, each with what it writes, contents between «» marks.

The expectations in templates/*.txt are written by hand: a head names the conversation of
chats.json, and what the template is given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probekit.inputs.chats import Setting

FOLDER = Path(__file__).parent / "templates"
CHATS: dict[str, list[dict[str, Any]]] = json.loads((FOLDER / "chats.json").read_text())
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
DATE = "2024-07-26"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A conversation, and what a template writes of it."""

    template: str
    head: str  # "system +prompt"
    marked: str  # with contents between « and »

    @property
    def source(self) -> str:
        return (FOLDER / f"{self.template}.jinja").read_text()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """As they go to the template: without what is null."""
        chat = [{k: v for k, v in m.items() if v is not None} for m in CHATS[self.words[0]]]
        if "parts" in self.words:
            return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in chat]
        return chat

    @property
    def words(self) -> list[str]:
        return self.head.split()

    @property
    def arguments(self) -> dict[str, Any]:
        return {"enable_thinking": False} if "-thinking" in self.words else {}

    @property
    def setting(self) -> Setting:
        return Setting(
            source=self.source,
            date=DATE,
            add_generation_prompt="+prompt" in self.words,
            variables={**SPECIAL, **self.arguments},
        )

    @property
    def text(self) -> str:
        return self.marked.replace("«", "").replace("»", "")

    @property
    def contents(self) -> list[tuple[int, int]]:
        """Where the contents stand in the text."""
        found = []
        n_marks = 0
        for at, character in enumerate(self.marked):
            if character == "«":
                found.append((at - n_marks, 0))
            elif character == "»":
                found[-1] = (found[-1][0], at - n_marks)
            n_marks += character in "«»"
        return found


def read_cases() -> Iterator[Case]:
    """Give every expectation."""
    for path in sorted(FOLDER.glob("*.txt")):
        for block in path.read_text().split("=== ")[1:]:
            head, _, marked = block.partition("\n")
            yield Case(template=path.stem, head=head, marked=marked.removesuffix("\n"))
