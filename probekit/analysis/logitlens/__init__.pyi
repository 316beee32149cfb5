from .computing import lens as lens
from .result import Lens as Lens, LensExample as LensExample
