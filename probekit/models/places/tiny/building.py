"""One thread at a time builds models: how transformers does, and torch's seed, are the process's.

Or another one's random weights are never drawn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch

BUILDING = RLock()


@contextmanager
def random_weights(seed: int) -> Iterator[None]:
    """Build models whose weights are drawn on the CPU from a seed; all other draws go on as before.

    `torch.manual_seed` would seed every GPU of the machine too.
    """
    with BUILDING:
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_rng_state(before)
