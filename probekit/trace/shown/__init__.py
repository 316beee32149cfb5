"""How what a trace holds is shown: tables at a prompt and in a notebook, texts of a stranger's.

Knows text and HTML; nothing of traces or of what stands in a table.

Its door: `Table`, and `Shown`, which what shows itself as one inherits; `visible_token`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
