"""By what command a process was started, as a run may say it to others: without secrets.

Knows command lines; nothing of runs.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import PurePath

_HIDDEN = "***"
_WORDS = (
    "token|key|apikey|secret|password|passwd|passphrase|passcode|pwd|credentials?|auth|"
    "authorization|bearer|signature|sig"
)
# A name that ends in such a word: `hub.api_key`, `--hf-token`; not max_tokens, tokenizer.
_NAME = rf"[\w.\-\[\]]*(?<![a-z])(?:{_WORDS})|[\w.\-]*(?:secret|password|apikey|api_?key|_token)"
_NAMED = re.compile(rf"(?:{_NAME})(?:_value)?", re.I)
_PAIR = re.compile(rf"(?P<name>(?<![\w.\-])(?:{_NAME})[\"']?\s*[:=]\s*)(?P<value>[^,}}\]&]+)", re.I)
_USER = re.compile(r"(://)[^/\s]*@")
_SHAPES = re.compile(  # how hubs and clouds make theirs, wherever one stands
    r"\b(?:hf_|api_org_|sk-|gh[pousr]_|github_pat_|glpat-|xox[abp]-|AKIA|ASIA)[\w\-]{6,}"
    r"|\beyJ[\w\-]{8,}\.[\w\-.]+"
)


def command_of_this_process() -> str:
    """Say what was typed to start this process: the command, `python` and its script, `notebook`.

    What looks like a token, a key or a password stands there as `***`.
    """
    if "ipykernel" in sys.modules:
        return "notebook"
    program, *arguments = sys.argv or [""]
    path = PurePath(program)
    if path.name == "probekit" or path.parts[-2:] == ("probekit", "__main__.py"):
        return shlex.join(["probekit", *without_secrets(arguments)])
    if program in ("", "-c"):
        return "python"
    return shlex.join(["python", *without_secrets([program])])  # what a script takes, it knows


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """Write `***` for what looks like a secret, in the arguments of a command."""
    return [*_told(arguments)]


def _told(arguments: Sequence[str]) -> Iterator[str]:
    before = ""
    for argument in arguments:
        hide = before.startswith("-") and "=" not in before and _NAMED.fullmatch(before)
        yield _HIDDEN if hide else _told_alone(argument)
        before = argument


def _told_alone(argument: str) -> str:
    name, equals, value = argument.partition("=")
    if equals and value and _NAMED.fullmatch(name):
        return f"{name}={_HIDDEN}"
    shown = _USER.sub(rf"\1{_HIDDEN}@", argument)
    shown = _PAIR.sub(rf"\g<name>{_HIDDEN}", shown)
    return _SHAPES.sub(_HIDDEN, shown)
