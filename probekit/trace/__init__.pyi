from .columns import AxisTable as AxisTable, Names as Names
from .documents import Document as Document, Documents as Documents
from .names import collapse as collapse, layerless as layerless
from .notebook import model_of as model_of, site_table as site_table, trace_table as trace_table
from .opening import open_trace as open_trace
from .rowblocks import (
    ATTENTION as ATTENTION,
    axis_rows as axis_rows,
    blocks as blocks,
    examples_of as examples_of,
    float64 as float64,
    row_slices as row_slices,
)
from .shown import (
    Marked as Marked,
    Shown as Shown,
    Table as Table,
    said_value as said_value,
    table_of as table_of,
    visible as visible,
    visible_token as visible_token,
)
from .site import Site as Site
from .sitechoice import Patterns as Patterns, choose_sites as choose_sites, recorded as recorded
from .summary import summarize_trace as summarize_trace
from .trace import Trace as Trace
