from .mapped import (
    MappedRows as MappedRows,
    Segment as Segment,
    file_maps as file_maps,
    open_file as open_file,
    segments_of as segments_of,
)
