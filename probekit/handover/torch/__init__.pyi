from .batches import RowBatches as RowBatches, RowItems as RowItems
from .training import make_batches as make_batches, make_items as make_items
