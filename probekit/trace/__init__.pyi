from .axistable import AxisTable as AxisTable, Names as Names
from .characters import (
    said_value as said_value,
    visible as visible,
    visible_token as visible_token,
)
from .documents import Document as Document, Documents as Documents
from .names import collapse as collapse, layerless as layerless
from .notebook import model_of as model_of, site_table as site_table, trace_table as trace_table
from .notebooktable import (
    Marked as Marked,
    Shown as Shown,
    Table as Table,
    table_of as table_of,
)
from .rowblocks import (
    ATTENTION as ATTENTION,
    axis_rows as axis_rows,
    blocks as blocks,
    examples_of as examples_of,
    float64 as float64,
    row_slices as row_slices,
)
from .site import Site as Site
from .sitechoice import Patterns as Patterns, choose_sites as choose_sites, recorded as recorded
from .summary import summarize_trace as summarize_trace
from .trace import Trace as Trace, open_trace as open_trace
