"""The runs whose traces lie in golden.tar.xz: small, over several shards, one of each kind."""

from __future__ import annotations

from typing import Any

TEXTS = [
    "The capital of Japan is",
    "My favorite color is",
    "Cats are ",
    "The capital of France is Paris. The capital of France is",
    "Anna likes",
]


def _config(name: str, probes: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "model": {"name": "sample:tiny-gpt2", "device": "cpu", **more.pop("model", {})},
        "inputs": {"texts": TEXTS},
        "probes": probes,
        "store": {"path": f"runs/{name}", "shard_bytes": 200},
        **more,
    }


PROBES = [
    {"modules": "transformer.h.*.mlp.act", "neurons": [3, 17, 40]},
    {"sites": "resid_post", "layers": [-1], "neurons": [0, 1, 2, 3], "positions": "last"},
    {"sites": "pattern", "layers": [0], "heads": [0]},
    {"modules": "lm_head", "record": ["top_k", "token_logprob"], "k": 2},
]
GENERATED = [
    {"sites": "resid_post", "layers": [0], "neurons": [0, 1, 2, 3]},
    {"sites": "pattern", "layers": [1], "heads": [0]},
]
GENERATE = {"max_new_tokens": 3, "strategy": "sample", "seed": 1}
POOLED = [{"sites": "mlp_out", "layers": [0], "pool": "mean"}]
CONFIGS = {
    "plain": _config("plain", PROBES),
    "generate": _config("generate", GENERATED, generate=GENERATE),
    "order": _config("order", POOLED, execution_order=True),
    "bfloat16": _config("bfloat16", PROBES[:2], model={"dtype": "bfloat16"}),
    "interrupted": _config("interrupted", PROBES),
    "interrupted_generate": _config("interrupted_generate", GENERATED, generate=GENERATE),
}
