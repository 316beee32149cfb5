from .conversation import Conversation as Conversation, read_conversation as read_conversation
from .renderer import Bounds as Bounds, Renderer as Renderer
from .segments import (
    NOBODY as NOBODY,
    Refused as Refused,
    Rendered as Rendered,
    Segment as Segment,
)
from .setting import Setting as Setting
from .tokenowners import (
    COLUMNS as COLUMNS,
    NO_ROLE as NO_ROLE,
    Owners as Owners,
    Parts as Parts,
)
