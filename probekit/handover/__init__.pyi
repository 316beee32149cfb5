from .dataarrays import dataset_of as dataset_of
from .dataframes import frame_of as frame_of
from .merging import merge_trace as merge_trace
from .newfile import Copied as Copied, Watcher as Watcher
from .tensorfile import write_tensors as write_tensors
from .torch import (
    RowBatches as RowBatches,
    RowItems as RowItems,
    make_batches as make_batches,
    make_items as make_items,
)
