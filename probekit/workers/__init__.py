"""Workers: processes that share a run, on the engines that start them, and how far they are.

Knows processes, and what a run's folder says of those who work in it. Each worker carries out the
run as any process does: by claims it takes the next shard that nobody has. Engines start workers
and start them again; they decide nothing else.

Its door: `run_with_workers`, `run_on_ray`, `status`, `RunStatus`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
