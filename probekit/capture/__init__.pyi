from .running import run as run
from .walk import Progress as Progress, Watcher as Watcher
