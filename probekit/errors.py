"""The exception tree of probekit.

Every message says where, what was given, what was expected and what to do. Several faults found
together travel in one exception, one line each. Names and values in a message may come from a
stranger's file, so whatever does not print is written as an escape: no message can move a cursor or
turn the text around it. This file knows no other part of probekit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

SHOWN = 20  # faults of one error; who reads more mends these first
_LINE = 2000  # characters of a line of a message

__all__ = ["CaptureError", "ConfigError", "Fault", "PlanError", "ProbekitError", "StoreError"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and its place: ``configs/a.yaml:14: probes[1].layers``."""

    where: str
    message: str

    def __str__(self) -> str:
        return _line(f"{self.where}: {self.message}")


def printable(text: str) -> str:
    """Write what does not print as an escape: controls, marks that turn text around, surrogates."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ProbekitError(Exception):
    """Anything probekit refuses to do; the message is meant for the user as it stands."""

    faults: tuple[Fault, ...] = ()

    def __init__(self, message: str = "") -> None:
        super().__init__("\n".join(_line(line) for line in message.split("\n")))

    @classmethod
    def of(cls, faults: Iterable[Fault]) -> Self:
        """Make one error of several faults.

        Args:
            faults: At least one, in the order in which they are to be read.

        Returns:
            An error whose message has one fault a line, the first twenty of them, and whose
            ``faults`` keeps them all.
        """
        kept = tuple(faults)
        assert kept, "an error needs a fault"
        more = [f"... and more; these are the first {SHOWN}"] if len(kept) > SHOWN else []
        error = cls("\n".join([*map(str, kept[:SHOWN]), *more]))
        error.faults = kept
        return error


class ProbekitWarning(UserWarning):
    """Something that a run survives and its user should know."""


class ConfigError(ProbekitError):
    """The config is wrong by itself: its text, its keys, its values."""


class PlanError(ProbekitError):
    """The config cannot be carried out on this model, with these inputs, on this disk."""


class CaptureError(ProbekitError):
    """Something went wrong while the model ran."""


class StoreError(ProbekitError):
    """A trace cannot be written, or what lies on disk is not what was written."""


def raise_together(found: Iterable[Fault | ProbekitError]) -> None:
    """Raise all that was found wrong as one error, if anything was.

    An error that is alone is raised as it is; of several kinds together becomes a ConfigError.
    """
    errors = [ConfigError.of([one]) if isinstance(one, Fault) else one for one in found]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        kinds = {type(error) for error in errors}
        kind = kinds.pop() if len(kinds) == 1 else ConfigError
        together = kind("\n".join(map(str, errors)))
        together.faults = tuple(fault for error in errors for fault in error.faults)
        raise together


def _line(text: str) -> str:
    line, half = printable(text), _LINE // 2
    return line if len(line) <= _LINE else f"{line[:half]} ... {line[-half:]}"
