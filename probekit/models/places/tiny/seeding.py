"""Seeding: random weights that are the same wherever they are drawn.

Knows torch's random numbers of the CPU; nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from probekit.models.places.tiny.building import BUILDING


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
