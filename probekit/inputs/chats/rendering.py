"""Rendering one conversation: its text, and whose each character is; or why it is refused.

Knows in which order the others of this room are asked. It runs a stranger's code without bounds:
only the process of serving.py, which has some, calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from probekit.inputs.chats.finding import Found, NotFoundError, find_contents, units_of
from probekit.inputs.chats.marks import has_private
from probekit.inputs.chats.owning import prompt_of, segments_of
from probekit.inputs.chats.segments import ASSISTANT, Refused, Rendered
from probekit.inputs.chats.templating import Templating

_FILES = ("<template>", "<unknown>")  # how Jinja calls a template in a traceback


def render(templating: Templating, messages: list[dict[str, Any]]) -> Rendered | Refused:
    """Render a conversation and find whose each character is."""
    if has_private(_texts(messages)):
        return Refused(reason="it has private characters (U+F0000 and above), which mark places")
    try:
        real = templating.real(messages)
    except Exception as error:
        # Whatever a stranger's code raises, it means that it does not take this conversation.
        return refusal_of(error)
    if not real:
        return Refused(reason="the template writes nothing of it")
    try:
        found = find_contents(templating, messages, real)
        prompt = _prompt(templating, messages, real, found)
    except NotFoundError as error:
        return Refused(reason=error.reason, turn=error.turn)
    except (TimeoutError, MemoryError) as error:
        return refusal_of(error)
    setting, units = templating.setting, units_of(messages)
    first = str(setting.variables.get("bos_token") or "")
    is_first = bool(first) and "bos_token" in setting.source and real.startswith(first)
    segments = segments_of(
        real,
        found,
        units,
        n_first=len(first) if is_first else 0,
        prompt=prompt,
        n_turns=len(messages),
    )
    roles = [str(message["role"]) for message in messages]
    # Where a template has no prompt to write, what a model says next is the assistant's none the
    # less.
    is_asked = setting.add_generation_prompt and roles[-1] != ASSISTANT
    is_next = prompt is not None or is_asked
    there = {units[n].turn for n, spans in found.spans.items() if spans}
    return Rendered(
        text=real,
        segments=segments,
        roles=(*roles, ASSISTANT) if is_next else tuple(roles),
        is_open=is_next or setting.continue_final_message,
        left_out=tuple(sorted({u.turn for u in units if u.text.strip()} - there)),
    )


def refusal_of(error: Exception) -> Refused:
    """Say what a template's failure is, and in which of its lines."""
    kind, said = type(error).__name__, str(error)
    if isinstance(error, TimeoutError):
        reason = said
    elif isinstance(error, MemoryError):
        reason = "it takes more memory than a template may"
    elif isinstance(error, RecursionError):
        reason = "it calls itself without an end"
    elif kind == "TemplateError":  # by its own raise_exception
        reason = f"the template refuses it: {said}"
    else:
        reason = f"the template fails: {said or kind}" + (f" ({kind})" if said else "")
    is_bound = isinstance(error, TimeoutError | MemoryError)
    return Refused(reason=reason, line=_line(error), is_bound=is_bound)


def _line(error: BaseException) -> int | None:
    if (line := getattr(error, "lineno", None)) is not None:
        return int(line)
    found, at = None, error.__traceback__
    while isinstance(at, TracebackType):
        if at.tb_frame.f_code.co_filename in _FILES:
            found = at.tb_lineno
        at = at.tb_next
    return found


def _prompt(
    templating: Templating, messages: list[dict[str, Any]], real: str, found: Found
) -> int | None:
    if not templating.setting.add_generation_prompt:
        return None
    try:
        without = templating.real(messages, prompts=False)
    except TimeoutError:
        raise
    except Exception:
        # A template may refuse a chat that nobody is asked to go on with; its marks tell, then.
        without = None
    last = max((end for spans in found.spans.values() for _, end in spans), default=0)
    return prompt_of(real, without, found.cuts, last)


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
