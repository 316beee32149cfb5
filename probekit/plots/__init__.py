"""Figures of sites and of the results of an analysis, drawn with matplotlib.

Knows colours, axes and labels; computes no result of its own.

Its door: `plot_site`, and a `plot_...` for each kind of result.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
