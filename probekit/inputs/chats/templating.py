"""Templating: a chat template carried out, as transformers does it, and with marks.

Knows Jinja and transformers' environment for templates. It runs a stranger's code without bounds:
only the process of serving.py, which has some, calls it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from probekit.inputs.chats.instrumenting import Following, instrument, literals
from probekit.inputs.chats.setting import Setting

_TAG = "CONTINUE_FINAL_MESSAGE_TAG "  # transformers' own

Chat = list[dict[str, Any]]


def load_libraries() -> Any:
    """Load what carries templates out: transformers' own, without its torch.

    Not earlier: it takes a second, and nothing but a process of its own needs it.
    """
    from transformers.utils import chat_template_utils

    return chat_template_utils


class Templating:
    """A template that is ready to be carried out.

    Args:
        setting: the template, and what it is given.
        library: what `load_libraries` gives.

    Raises:
        jinja2.TemplateError: if its source is no template.
    """

    def __init__(self, setting: Setting, library: Any = None) -> None:
        self._library = load_libraries() if library is None else library
        self.setting = setting
        self._plain = self._library._compile_jinja_template(setting.source)
        environment = self._plain.environment
        environment.globals["strftime_now"] = self._date
        self._following = Following()
        self._marking = instrument(environment, setting.source, self._following)
        self._literals = literals(environment, setting.source)
        self._patterns: dict[frozenset[str], re.Pattern[str] | None] = {}
        self.n_dates = 0  # how often it asked for today

    def kept(self, roles: Sequence[str]) -> re.Pattern[str] | None:
        """Give what the template may look for in a content."""
        named = frozenset(roles)
        if named not in self._patterns:
            given = [v for v in self.setting.variables.values() if isinstance(v, str)]
            every = {w for w in (*self._literals, *given, *named) if w and not w.isspace()}
            longest_first = sorted(every, key=len, reverse=True)
            pattern = re.compile("|".join(map(re.escape, longest_first))) if every else None
            self._patterns[named] = pattern
        return self._patterns[named]

    def real(self, messages: Chat, *, prompts: bool | None = None) -> str:
        """Render messages: transformers' own doing.

        Args:
            messages: as they are given.
            prompts: with a generation prompt; None as the setting has it.
        """
        setting = self.setting
        asked = setting.add_generation_prompt if prompts is None else prompts
        (text,), _ = self._library.render_jinja_template(
            conversations=[messages],
            tools=None if setting.tools is None else [*setting.tools],
            chat_template=setting.source,
            continue_final_message=setting.continue_final_message,
            add_generation_prompt=asked,
            **setting.variables,
        )
        return str(text)

    def quick(self, messages: Chat, *, marks: bool) -> str | None:
        """Render messages in fewer steps, and with marks of turns if they are wanted.

        It is compared with `real`, and what differs proves nothing. None where the template does
        not bear the messages.
        """
        setting, template = self.setting, self._marking if marks else self._plain
        named = getattr(self._library, "_alias_reasoning_fields", None)  # not in every version
        chat = messages if named is None else named(messages)
        if setting.continue_final_message:
            chat = [*chat[:-1], _tagged(chat[-1])]
        self._following.begin(chat)
        tools = None if setting.tools is None else [*setting.tools]
        try:
            text: str = template.render(
                messages=chat,
                tools=tools,
                documents=None,
                add_generation_prompt=setting.add_generation_prompt,
                **setting.variables,
            )
        except TimeoutError:
            raise
        except Exception:
            # Any exception of a stranger's code: it looks at contents, and these are not the real.
            return None
        return _cut_at_tag(text) if setting.continue_final_message else text

    def _date(self, form: str) -> str:
        self.n_dates += 1
        return datetime.fromisoformat(self.setting.date).strftime(form)


def _tagged(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + _TAG}
    *others, last = content
    return {**message, "content": [*others, {**last, "text": last["text"] + _TAG}]}


def _cut_at_tag(text: str) -> str:
    at = text.rfind(_TAG.strip())
    if at < 0:
        return text
    return text[:at] if text[at : at + len(_TAG)] == _TAG else text[:at].rstrip()
