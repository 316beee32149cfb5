"""A config, a skeleton and inputs -> a `Plan`: every decision, before weights load.

Knows which tensor a probe means, what is done to its rows, which shards there will be and how many
bytes; what can be wrong with a config is found here. Runs no model.

Its door: `plan`, `make_plan` and their `Plan`; its parts `SitePlan`, `Source` and `Recipe`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
