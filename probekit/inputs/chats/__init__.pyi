from .conversation import Conversation as Conversation, read_conversation as read_conversation
from .renderer import Bounds as Bounds, Refused as Refused, Renderer as Renderer
from .segments import NOBODY as NOBODY, Rendered as Rendered, Segment as Segment
from .setting import Setting as Setting
