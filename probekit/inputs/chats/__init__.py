"""Chats: conversations with roles become texts, and it is known whose each character is.

Knows messages, chat templates, and how contents are found in what a template writes of them;
nothing of examples and shards. The template is carried out by a process of its own.

Its door: `read_conversation`, `Renderer` and its `Rendered`, `Parts` by token.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
