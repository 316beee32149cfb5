from .index import build_index as build_index
from .layout import ALIGNED as ALIGNED, ShardTables as ShardTables, create_rows as create_rows
from .publishing import publish_sealed as publish_sealed
from .said import Joined as Joined
from .writer import ShardWriter as ShardWriter
