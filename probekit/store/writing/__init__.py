"""Rows onto the disk: shards are written under a temporary name, checksummed, synced, sealed.

Knows layout, compression and syncing, and the index over all shards; nothing of who computes rows.

Its door: `ShardWriter`, `ShardTables`, `build_index`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
