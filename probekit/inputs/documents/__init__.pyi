from .longtexts import (
    Cutting as Cutting,
    Window as Window,
    head_ends as head_ends,
    windows as windows,
)
from .pieces import Piece as Piece, Splitting as Splitting
