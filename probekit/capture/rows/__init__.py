"""Rows of one batch: what hooks hand over is packed, reduced, moved off the device and counted.

Knows batches, tensors and streams; nothing of shards on disk, and not which batch runs when.

Its door: `Batch`, `make_batch`, `Receiver`, `Transfer`, `Tally`, `Spool`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
