from .running import Progress as Progress, Watcher as Watcher, run as run
