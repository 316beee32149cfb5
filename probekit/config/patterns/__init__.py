"""Patterns of module paths: which they match, what they miss, and many messages said as one.

Knows text only, paths and patterns such as `h.{0..5}.mlp`; neither the keys of a config nor models.

Its door: `match_paths`, `compile_glob`; `no_match` and `nearest` for what a pattern misses;
`said_once`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
