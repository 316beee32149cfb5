"""Datasets: the rows of what the library `datasets` reads, at once or as they come.

Knows that library, which it imports when it is asked, and the files that a config names for it;
nothing of what a row says.

Its door: `dataset_rows`, and the `local_files` that they come from.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
