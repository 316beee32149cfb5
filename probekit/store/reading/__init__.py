"""Rows off the disk, at the speed of a memory map.

Knows where rows lie in their files, over many shards; nothing of what they mean.

Its door: `open_file`, `MappedRows`, `segments_of`, `ShardFiles`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
