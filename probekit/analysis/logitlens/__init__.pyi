from .athand import what_lens_lacks as what_lens_lacks
from .computing import lens as lens
from .result import Lens as Lens, LensExample as LensExample
