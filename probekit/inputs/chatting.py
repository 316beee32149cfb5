"""Chatting: a tokenizer's chats become what the model reads, by the chat template.

Knows which template is taken and what it is given; nothing of how contents are found in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from probekit.config import ProbeConfig, TemplateInputs
from probekit.errors import ConfigError
from probekit.inputs.chats import Conversation, Refused, Rendered, Renderer, Setting
from probekit.inputs.contents import Encode, Reading, Unread
from probekit.wording import by_count, counted, near, shorten

_OWN = "the tokenizer's chat template"


def template_in(config: ProbeConfig) -> str | None:
    """Read the file that a config names; None where it names none.

    Raises:
        ConfigError: if it cannot be read.
    """
    place, where = config.inputs.template_place, config.where("inputs.chat_template")
    if place is None:
        return None
    if place.suffix.lower() == ".json":
        raise ConfigError(
            f"{where}: {place} is JSON; expected the template itself, as text in a file of its own"
        )
    try:
        source = place.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: {place} is not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        what = "there is no file" if not place.exists() else "cannot be read:"
        said = "" if not place.exists() else f" ({error.strerror or error})"
        raise ConfigError(f"{where}: {what} {place.absolute()}{said}") from error
    if not source.strip():
        raise ConfigError(f"{where}: {place} is empty; expected a chat template")
    return source


class Chats:
    """Conversations for one tokenizer.

    Args:
        config: that asks for them.
        tokenizer: of transformers.
        encode: texts to token ids, nothing put beside them: templates write special tokens.
        own: what the tokenizer puts before a text by itself, as it is spelled; None for nothing.

    Raises:
        ConfigError: if there is no template, or what it is given makes no sense.
    """

    def __init__(
        self, config: ProbeConfig, tokenizer: Any, encode: Encode, own: str | None = None
    ) -> None:
        self._encode, self._config, self._own = encode, config, own
        self._given = config.inputs.template or TemplateInputs.model_validate({})
        source, self._name = _template(config, tokenizer, self._given.tools)
        _check_used(config, self._given, source)
        self._bos = getattr(tokenizer, "bos_token", None)
        self._renderer = Renderer(_setting(source, self._given, tokenizer), self._name)
        self._n_chats = self._n_with_bos = self._n_left_out = 0
        self._left_out: str | None = None

    def close(self) -> None:
        """End the process that renders."""
        self._renderer.close()

    def readings(self, chats: Sequence[Conversation]) -> Iterator[Reading | Unread]:
        """Turn conversations into what the model reads, in their order."""
        found: list[Rendered | Refused] = []
        for one in self._renderer.render(chats):
            found.append(one)
            if isinstance(one, Refused) and one.is_bound:  # each of a thousand could take as long
                break
        texts = [one.text for one in found if isinstance(one, Rendered)]
        encoded = self._encode(texts) if texts else None
        n = 0
        for chat, one in zip(chats, found, strict=False):
            if isinstance(one, Refused):
                yield Unread(self._why(one, chat), is_last=one.is_bound)
                continue
            assert encoded is not None  # there are texts
            self._count(one)
            yield encoded.reading(n, one.text, one)
            n += 1

    def notes(self) -> list[str]:
        """Say what the user should know of the conversations that were read."""
        where = self._config.where("inputs.messages")
        found = []
        if self._n_with_bos:
            found.append(
                f"{where}: {self._name} writes the BOS token {self._bos} by which a text begins, "
                "so no other is put before it"
            )
        elif self._own:
            found.append(
                f"{where}: {self._name} writes all special tokens there are; {self._own}, which "
                "the tokenizer puts beside a text, is not put beside a chat"
            )
        if self._renderer.asks_for_date:
            found.append(
                f"{where}: {self._name} asks for today's date, and is told {self._given.date} "
                "(inputs.template.date), so that equal runs are equal"
            )
        if self._left_out is not None:
            found.append(
                f"{where}: {self._name} writes nothing of {self._left_out}; in "
                f"{counted(self._n_left_out, 'chat', of=self._n_chats)} a message is left out"
            )
        asked = self._given.add_generation_prompt
        if asked and not re.search(r"\badd_generation_prompt\b", self._renderer.setting.source):
            found.append(
                f"{self._config.where('inputs.template.add_generation_prompt')}: {self._name} "
                "knows no generation prompt, and writes none"
            )
        return found

    def _count(self, chat: Rendered) -> None:
        self._n_chats += 1
        self._n_with_bos += bool(self._bos) and chat.text.startswith(str(self._bos))
        if chat.left_out:
            self._n_left_out += 1
            turn = chat.left_out[0]
            first = f"message {turn} ({chat.roles[turn]}) of chat {self._n_chats - 1}"
            self._left_out = self._left_out or first

    def _why(self, refused: Refused, chat: Conversation) -> str:
        what = ""
        if refused.turn is not None and refused.turn < len(chat.messages):
            role = chat.messages[refused.turn].role
            what = (
                f"message {refused.turn} ({shorten(role)}): where its content stands is not told: "
            )
        return f"{what}{refused.reason} ({self._place(refused.line)})"

    def _place(self, line: int | None) -> str:
        if self._name == _OWN:
            return _OWN if line is None else f"{_OWN}, line {line}"
        return self._renderer.place(line)


def _template(config: ProbeConfig, tokenizer: Any, tools: Sequence[Any] | None) -> tuple[str, str]:
    """Give the source of the template, and its name for messages."""
    source = template_in(config)
    if source is not None:
        return source, str(config.inputs.template_place)
    where = config.where("inputs.messages")
    if not getattr(tokenizer, "chat_template", None):
        name = config.model.tokenizer or config.model.name
        raise ConfigError(
            f"{where}: the tokenizer of {name} has no chat template; write inputs.chat_template: "
            "FILE.jinja, or give texts"
        )
    try:
        return str(tokenizer.get_chat_template(None, tools)), _OWN
    except ValueError as error:  # it has several, and none that is the default
        raise ConfigError(f"{where}: {error}; write inputs.chat_template: FILE.jinja") from error


def _setting(source: str, given: TemplateInputs, tokenizer: Any) -> Setting:
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    return Setting(
        source=source,
        date=given.date,
        add_generation_prompt=given.add_generation_prompt,
        continue_final_message=given.continue_final_message,
        tools=given.tools,
        variables={**special, **given.arguments},
    )


def _check_used(config: ProbeConfig, given: TemplateInputs, source: str) -> None:
    """Refuse what the template nowhere reads."""
    words = {*re.findall(r"[A-Za-z_]\w*", source)}
    for name in given.arguments:
        if name not in words:
            meant = near(name, sorted(words))
            hint = (
                f"; did you mean {by_count(len(meant), meant[0], ' or '.join(meant))}?"
                if meant
                else ""
            )
            raise ConfigError(
                f"{config.where('inputs.template.arguments')}: the template nowhere reads "
                f"{name!r}{hint}"
            )
    if given.tools and "tools" not in words:
        raise ConfigError(
            f"{config.where('inputs.template.tools')}: the template nowhere reads tools; leave "
            "them out"
        )
