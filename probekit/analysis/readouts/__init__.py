"""Readouts: what is fitted on the rows of a site to say a column of the user's own.

Knows labels, splits without leaks, linear fits in memory and streamed, and how well they do on what
they have not seen; runs no model and imports no torch. What lies in a file of directions is in
`saving`.

Its door: `fit_readout`, `load_readout`, and the `Readout` that they give; `apply_readout` and
`save_readout`, which are its methods.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
