"""Listening to any `nn.Module`, in memory.

Knows hooks, the scores that attention hides, the order in which modules run, and `record` for
notebooks, whose rows a mask makes real tokens; nothing of files. What is put on a model is gone
after the block, whatever happened.

Its door: `record`, `HookManager` and its `Tap`, `OrderRecorder`, `BareHooks`; `attention`
computes patterns and scores.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
