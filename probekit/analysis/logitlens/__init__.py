"""The logit lens: what each layer's residual stream would say as the model's last.

Knows the final norm and the unembedding, which it loads alone; nothing of the layers before them.

Its door: `lens`, and the `Lens` and `LensExample` that it gives.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
