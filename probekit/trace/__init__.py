"""What an analysis script holds: a `Trace`, its tables, its `Site`s.

Knows how a trace reads and how a notebook shows it; imports neither torch nor transformers, and
computes no result. What rooms above do with a trace are its methods through `methods`.

Its door: `open_trace`, `Trace`, `Site`; `choose_sites` and the rows of a site in `blocks`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
