"""Tiny models: of every family, and of a model that is to be run, like it but for its sizes.

Knows transformers' configs and how a model of one is built; nothing of places.

Its door: `tinymodels`, `shrunk`, `Outline` and `unlike`, `BUILDING`, `random_weights`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
