from .beginning import run as run
from .shardwalk import Progress as Progress, Watcher as Watcher
