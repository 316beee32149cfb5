"""A model that a Python call gives: what it is, which it is, and that it stays as it was.

Knows the object itself: where it runs, what a config may say beside it, a digest of all that it
computes with, and what a run must put back. Nothing of probes, nor of how a model is loaded.

Its door: `at_hand` and its `AtHand`, `inner_model`, `weights_digest`, `borrowed`, `FreshState`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
