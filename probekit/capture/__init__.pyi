from .asked import Asked as Asked
from .beginning import finished as finished, prepare as prepare, run as run
from .progress import Progress as Progress, Watcher as Watcher
