"""The self-check: what is rehearsed before a run, and what it must equal.

Knows plans and traces; how rows are recorded it is handed, as a function that carries out a plan.

Its door: `self_check`, `Checked`, `ROOM_BYTES`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
