"""Long documents: where a text may be cut, and how its tokens become pieces.

Knows characters and tokens; the tokenizer comes in as what it says of itself. Nothing of files, of
examples, or of the model but how many tokens of a piece it takes.

Its door: `Cutting`, `head_ends` and `windows` of long texts; `Splitting` and its `Piece`s.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
