"""One thread at a time builds models: how transformers does, and torch's seed, are the process's.

Or another one's random weights are never drawn.
"""

from threading import RLock

BUILDING = RLock()
