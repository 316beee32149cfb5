"""Where portable names lie: derived from a model's structure, and proved on a tiny model.

Knows transformers' causal families through models of few sizes; nothing of checkpoints, and of the
table of families only what a place is.

Its door: `PORTABLE_NAMES`, `Place`, `Unembedding`, `derived` and its `Derived`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
