"""The walk: batches go through the model, rows come out, shards are sealed, the trace is opened.

Carries a plan out and takes no decisions. Knows which batch runs, which rows leave the device, when
a shard is whole, and the check before the run; running.py is all of it on one screen;
beginning.py comes first, with what needs no torch.

Its door: `run`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
