"""The terminal: one library call a command.

Knows commands, options, progress lines and exit codes; nothing that Python users cannot have. It
imports what a command needs when the command runs, so that `--help` is quick.

Its door: `main`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
