"""Which model it is, what it looks like without weights, and what its places are called.

Knows checkpoints and what their folders may not do, the skeleton of a model, and portable names by
family; nothing of probes.

Its door: `load_hf_config`, `load_model`, `build_skeleton` and its `Skeleton`, `families`,
`list_modules`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
