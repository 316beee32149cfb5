"""Numbers from a trace: statistics, neurons, head scores, next tokens, similarity of two traces.

Knows formulas and where they come from; draws nothing and runs no model. What needs a part of the
model, the logit lens, lies in `logitlens`; what is fitted on labels in `readouts`.

Its door: `site_statistics`, `trace_statistics`, `top_examples`, `head_scores`, `next_tokens`,
`compare`, `lens`, `fit_readout`, and the results that they give.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
