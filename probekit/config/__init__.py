"""YAML text <-> `ProbeConfig`, and the globs that a config is written in.

Knows what may be written and where it stood; whether a model has such a module or such a layer it
does not know (`planning`).

Its door: `load_config`, `ProbeConfig` and its parts, `json_schema`; `match_paths` and what a glob
missed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
