"""Conversations: messages with roles, as a config or a file has them.

Knows the forms of a message; nothing of templates and tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probekit.arguments import plain
from probekit.wording import counted, near, show, show_typed

MOST_MESSAGES = (
    5000  # of one conversation: each has private characters of its own while it is found
)
_ELSEWHERE = {"from": "role", "value": "content", "text": "content", "speaker": "role"}
_INSTEAD = ("tool_calls", "reasoning_content", "thinking", "reasoning", "function_call")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one said."""

    role: str
    given: Mapping[str, Any]  # all of it, as the template reads it; what is null is left out

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each part; none where it has no content."""
        content = self.given.get("content")
        if content is None:
            return ()
        return (content,) if isinstance(content, str) else tuple(part["text"] for part in content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages in their order."""

    messages: tuple[Message, ...]

    @property
    def plain(self) -> list[dict[str, Any]]:
        """The messages as plain JSON values."""
        return [dict(message.given) for message in self.messages]

    def __len__(self) -> int:
        """How much of it there is: its messages, and the characters of all contents."""
        n_characters = sum(len(text) for message in self.messages for text in message.texts)
        return len(self.messages) + n_characters


def read_conversation(given: object) -> Conversation | str:
    """Read a conversation from a source's values; give what is wrong with it where it is none."""
    given = plain(given)
    if isinstance(given, Mapping) and "messages" in given:
        return "given a mapping that holds `messages`; expected the list of messages itself"
    if not isinstance(given, Sequence) or isinstance(given, str):
        return f"given {show_typed(given)}, expected a list of messages such as {_EXAMPLE}"
    if not given:
        return "the conversation is empty: there is no message"
    if len(given) > MOST_MESSAGES:
        said = counted(len(given), "message")
        return f"a conversation of {said}; at most {MOST_MESSAGES:,} can be told apart"
    for turn, message in enumerate(given):
        if (wrong := next(_wrong(message), None)) is not None:
            return f"message {turn}: {wrong}"
    return Conversation(messages=tuple(_message(message) for message in given))


_EXAMPLE = "[{role: user, content: hi}]"


def _message(given: Mapping[str, Any]) -> Message:
    # Templates that read a key with null in it write the word None; transformers drops them, too.
    kept = {key: value for key, value in given.items() if value is not None}
    return Message(role=str(kept["role"]), given=kept)


def _wrong(given: object) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield f"given {show_typed(given)}, expected {{role: ..., content: ...}}"
        return
    if odd := [key for key in given if not isinstance(key, str)]:
        yield f"the key {show_typed(odd[0])} is no text"
        return
    role = given.get("role")
    if role is None:
        yield f"has no role; {_hint(given)}"
    elif not isinstance(role, str) or not role:
        yield f"role: given {show_typed(role)}, expected a name such as user"
    content = given.get("content")
    if content is None:
        if not any(given.get(key) for key in _INSTEAD):
            yield f"has no content; {_hint(given)}"
    elif not isinstance(content, str):
        yield from _wrong_parts(content)
    yield from (f"{path} {wrong}" for path, wrong in _unreadable(given, ""))


def _wrong_parts(content: object) -> Iterator[str]:
    if not isinstance(content, Sequence):
        yield f"content: given {show_typed(content)}, expected a text, or a list of text parts"
        return
    for number, part in enumerate(content):
        where = f"content[{number}]"
        if not isinstance(part, Mapping):
            yield f"{where}: given {show_typed(part)}, expected {{type: text, text: ...}}"
        elif part.get("type", "text") != "text":
            yield (
                f"{where}: is of type {show(part['type'])}; only texts are read here, "
                "expected {type: text, text: ...}"
            )
        elif not isinstance(part.get("text"), str):
            yield f"{where}: has no text; expected {{type: text, text: ...}}"


def _hint(given: Mapping[str, Any]) -> str:
    named = [key for key in _ELSEWHERE if key in given and _ELSEWHERE[key] not in given]
    if named:
        said = " and ".join(f"`{key}` into `{_ELSEWHERE[key]}`" for key in named)
        roles = "; its human is user, its gpt is assistant" if "from" in given else ""
        return f"rename {said}{roles}"
    meant = near("content" if "role" in given else "role", [*map(str, given)])
    there = ", ".join(map(str, given)) or "nothing"
    return f"there is: {there}" + (f"; did you mean {meant[0]}?" if meant else "")


def _unreadable(value: object, path: str) -> Iterator[tuple[str, str]]:
    """Find texts that neither HDF5 nor a tokenizer holds."""
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            yield path, "has a NUL character or a lone surrogate"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _unreadable(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, Sequence):
        for number, inner in enumerate(value):
            yield from _unreadable(inner, f"{path}[{number}]")
