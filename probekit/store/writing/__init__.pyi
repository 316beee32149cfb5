from .index import build_index as build_index
from .writer import (
    ALIGNED as ALIGNED,
    ShardTables as ShardTables,
    ShardWriter as ShardWriter,
    create_rows as create_rows,
)
