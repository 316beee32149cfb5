"""Rows of a trace as torch datasets: batches, in order or shuffled, over workers and processes.

Knows torch's datasets and what one epoch's order is; nothing of models.

Its door: `make_batches` and `make_items`, and the `RowBatches` and `RowItems` that they give.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
