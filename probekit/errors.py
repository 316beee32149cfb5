"""The exception tree of probekit.

Every message says where, what was given, what was expected and what to do. Several faults found
together travel in one exception, one line each. This file knows no other part of probekit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

__all__ = ["CaptureError", "ConfigError", "Fault", "PlanError", "ProbekitError", "StoreError"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and its place: ``configs/a.yaml:14: probes[1].layers``."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class ProbekitError(Exception):
    """Anything probekit refuses to do; the message is meant for the user as it stands."""

    faults: tuple[Fault, ...] = ()

    @classmethod
    def of(cls, faults: Iterable[Fault]) -> Self:
        """Make one error of several faults.

        Args:
            faults: At least one, in the order in which they are to be read.

        Returns:
            An error whose message has one fault a line and whose ``faults`` keeps them.
        """
        kept = tuple(faults)
        assert kept, "an error needs a fault"
        error = cls("\n".join(map(str, kept)))
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
