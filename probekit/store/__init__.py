"""The format on disk: a run's folder, its sealed shards, its index, and their checksums.

Knows files; neither models nor what the numbers mean. `format` says what lies where, `reading` maps
rows, `writing` seals them; here lie the folder of a run, its lock and its verification.

Its door: `SiteSpec`, `ShardSpec` and the rest of `schema`, `RunFolder`, `ShardWriter`,
`build_index`, `MappedRows`, `verify`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
