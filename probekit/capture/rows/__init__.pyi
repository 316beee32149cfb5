from .oddvalues import Tally as Tally
from .packing import (
    KNOWN_NEXT as KNOWN_NEXT,
    Batch as Batch,
    Rows as Rows,
    make_batch as make_batch,
    rows_at as rows_at,
)
from .receiver import Receiver as Receiver
from .spool import Spool as Spool
from .transfer import RowSink as RowSink, Transfer as Transfer
