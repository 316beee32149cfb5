from .files import open_file as open_file
from .mapped import MappedRows as MappedRows, file_maps as file_maps
from .segments import (
    Segment as Segment,
    Segments as Segments,
    ShardFiles as ShardFiles,
    segments_of as segments_of,
)
