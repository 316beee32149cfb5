"""How a run was asked for: what may be done to its folder, and who is told what.

Knows options; nothing of what they lead to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from probekit.stages import OnStage, unseen

if TYPE_CHECKING:
    from probekit.capture.progress import Watcher
    from probekit.planning import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of a run; see `run` in beginning.py."""

    overwrite: bool = False
    repair: bool = False
    force: bool = False
    self_check: bool = True
    on_plan: Callable[[Plan], None] = unseen
    on_note: Callable[[str], None] = unseen
    on_start: Callable[[int, int], None] = unseen
    on_stage: OnStage = unseen
    on_progress: Watcher | None = None
