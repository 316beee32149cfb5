from . import schema as schema
from .axes import (
    ALL_TOKENS as ALL_TOKENS,
    AXES as AXES,
    EXAMPLE as EXAMPLE,
    NAMES as NAMES,
    PER_EXAMPLE as PER_EXAMPLE,
    TEXT as TEXT,
    TOKEN as TOKEN,
    Axis as Axis,
    Column as Column,
    Named as Named,
    axis_of as axis_of,
    is_choice as is_choice,
    known_axes as known_axes,
)
from .checksums import (
    FileRecord as FileRecord,
    SiteRecord as SiteRecord,
    check_structure as check_structure,
    file_digest as file_digest,
    joined_checksum as joined_checksum,
    rest_checksum as rest_checksum,
    rows_checksum as rows_checksum,
    stored_checksum as stored_checksum,
    stored_extents as stored_extents,
)
from .dimensions import (
    Axes as Axes,
    dimension_names as dimension_names,
    row_axis as row_axis,
    write_dimensions as write_dimensions,
)
from .disk import (
    HDF5Out as HDF5Out,
    check_plain as check_plain,
    explained as explained,
    fsync as fsync,
    link as link,
    publish as publish,
    write_all as write_all,
    write_in_pieces as write_in_pieces,
)
from .execution import (
    Execution as Execution,
    Forward as Forward,
    Passes as Passes,
    forwards_from_json as forwards_from_json,
    forwards_to_json as forwards_to_json,
    passes_from_json as passes_from_json,
    passes_to_json as passes_to_json,
    read_execution as read_execution,
    write_execution as write_execution,
    write_orders as write_orders,
)
from .nodes import (
    BOOKKEEPING as BOOKKEEPING,
    attributes_of as attributes_of,
    dataset_in as dataset_in,
    is_in as is_in,
    is_number as is_number,
    names_in as names_in,
    node_in as node_in,
    number_of as number_of,
    numbers_in as numbers_in,
    plain as plain,
    texts_in as texts_in,
)
from .owner import (
    OWNED as OWNED,
    is_forsaken as is_forsaken,
    part_of as part_of,
    this_process as this_process,
)
from .records import read_record as read_record, write_record as write_record
from .schema import (
    COUNTS as COUNTS,
    DTYPES as DTYPES,
    FIRST as FIRST,
    FLOATS as FLOATS,
    INDEX_FILE as INDEX_FILE,
    INDEX_RECORD as INDEX_RECORD,
    INPUTS_FILE as INPUTS_FILE,
    INPUTS_RECORD as INPUTS_RECORD,
    LIBVER as LIBVER,
    MADE_FILE as MADE_FILE,
    NEWEST as NEWEST,
    NONFINITE as NONFINITE,
    OVERFLOW as OVERFLOW,
    PARTIAL_FILE as PARTIAL_FILE,
    RUN_FILE as RUN_FILE,
    SHARDS_FOLDER as SHARDS_FOLDER,
    Format as Format,
    ShardSpec as ShardSpec,
    SiteSpec as SiteSpec,
    item_bytes as item_bytes,
    widen as widen,
)
from .shardrows import (
    FEW as FEW,
    ROW_SHAPE as ROW_SHAPE,
    ShardRows as ShardRows,
    write_shard_rows as write_shard_rows,
)
from .usercolumns import (
    BOOL as BOOL,
    FLOAT as FLOAT,
    INT as INT,
    USER_DTYPES as USER_DTYPES,
    ColumnType as ColumnType,
    Scalar as Scalar,
    UserColumn as UserColumn,
    column_path as column_path,
    missing_path as missing_path,
    user_column_types as user_column_types,
    user_datasets as user_datasets,
    write_user_columns as write_user_columns,
    wrong_name as wrong_name,
)
from .vocabulary import (
    VOCABULARY_NAMES as VOCABULARY_NAMES,
    Vocabulary as Vocabulary,
    write_vocabulary as write_vocabulary,
)
