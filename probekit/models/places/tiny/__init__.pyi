from . import tinymodels as tinymodels
from .building import BUILDING as BUILDING
from .outline import (
    Outline as Outline,
    outline as outline,
    unlike as unlike,
    without_weights as without_weights,
)
from .seeding import random_weights as random_weights
from .shrinking import shrunk as shrunk
