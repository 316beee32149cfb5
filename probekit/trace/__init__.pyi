from .choosing import Patterns as Patterns, choose_sites as choose_sites, recorded as recorded
from .overview import model_of as model_of
from .rowblocks import (
    ATTENTION as ATTENTION,
    blocks as blocks,
    examples_of as examples_of,
    float64 as float64,
    row_slices as row_slices,
    tokens_of as tokens_of,
)
from .shown import Marked as Marked, Shown as Shown, Table as Table, visible as visible
from .site import Site as Site
from .summary import (
    collapse as collapse,
    layerless as layerless,
    summarize_modules as summarize_modules,
    summarize_trace as summarize_trace,
)
from .trace import Trace as Trace, open_trace as open_trace
