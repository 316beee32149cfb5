"""The attention of one example, as blocks: every head packed for itself, and all of them small.

Knows pattern sites. One layer is in memory at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from probekit.report import encoding as codes
from probekit.report.blocks import Block
from probekit.report.parts import Roles, map_labels
from probekit.report.streams import positions_of
from probekit.trace import Site, Trace, visible_token

Array = np.ndarray[Any, Any]

# Fine codes of so many weights take about 4 MB; GPT-2's 144 heads reach it at 235 tokens.
_FINE_WEIGHTS = 4_000_000
# So much a browser unpacks and shrinks itself, at once; of more it is given the pictures.
_DRAWN_WEIGHTS, _DRAWN_HEADS = 400_000, 200


def n_weights(roles: Roles, n_tokens: int) -> int:
    """Count the weights of an example, the causal half."""
    heads = sum(site.shape[1] for site in roles.attention)
    return heads * n_tokens * (n_tokens + 1) // 2


def attention_blocks(trace: Trace, roles: Roles, number: int) -> Iterator[Block]:
    """Give the blocks of one example: `N-head-MAP-COLUMN`, `N-thumbnails`, and `N-attention`.

    The last says what the others hold: `maps`, one a site, each with its `heads`, the positions
    of its `queries` (None: every token) and whether it is `causal`. Thumbnails are there only where
    the heads are too many to be shrunk by the browser.
    """
    _, n_tokens = trace.examples.extent(number)
    n_all = n_weights(roles, n_tokens)
    fine = n_all <= _FINE_WEIGHTS
    n_heads = sum(site.shape[1] for site in roles.attention)
    drawn = n_all <= _DRAWN_WEIGHTS and n_heads <= _DRAWN_HEADS
    scale = codes.Scale.fine() if fine else codes.Scale.coarse(n_tokens)
    maps, small = [], []
    with ThreadPoolExecutor() as pool:  # zlib and numpy let other threads run
        for place, site in enumerate(roles.attention):
            pattern = np.asarray(site.example(number), dtype=np.float32)
            queries = positions_of(trace, site, number)
            about = _about(site, len(queries) == n_tokens, queries)
            maps.append(about)
            if not pattern.size or not codes.are_weights(pattern):
                about["heads"] = []
                about["why"] = "holds no rows of this example" if not pattern.size else _NOT_WEIGHTS
                continue
            about["causal"], kept = codes.kept_of(pattern, queries)
            pack = partial(_pack, kept=kept, scale=scale)
            for column, data in enumerate(pool.map(pack, pattern)):
                yield Block.of_bytes(f"{number}-head-{place}-{column}", data)
            if not drawn:
                small.append(codes.thumbnails_of(pattern))
    if not drawn:
        together = b"".join(part.tobytes() for part in small)
        yield Block.of_bytes(f"{number}-thumbnails", zlib.compress(together))
    for about, label in zip(maps, map_labels(roles.attention), strict=True):
        about["label"] = visible_token(label)
    about_all = {"precision": scale.says(), "error": scale.error(), **asdict(scale)}
    yield Block.of_json(f"{number}-attention", {**about_all, "thumbnails": not drawn, "maps": maps})


_NOT_WEIGHTS = "holds values outside 0 to 1, which are no attention weights"


def _pack(head: Array, *, kept: Array, scale: codes.Scale) -> bytes:
    return codes.squeezed(scale.planes(scale.codes(head[kept])))


def _about(site: Site, whole: bool, queries: Array) -> dict[str, Any]:
    return {
        "site": visible_token(site.name),
        "heads": [int(head) for head in site.numbers("head")],
        "queries": None if whole else queries.tolist(),
    }
