"""Columns: one opened file of a trace, and the tables of its axes, column by column.

Knows where rows lie and what is declared of them; nothing of what an example or a token is.

Its door: `Opened`, `AxisTable`, `UserColumns`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
