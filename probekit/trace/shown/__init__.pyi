from .characters import (
    said_value as said_value,
    visible as visible,
    visible_token as visible_token,
)
from .tables import (
    Marked as Marked,
    Shown as Shown,
    Table as Table,
    table_of as table_of,
)
