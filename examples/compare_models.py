"""distilgpt2 against gpt2: how alike are they, layer by layer?

distilgpt2 has half the layers of gpt2, from which it was distilled. Linear CKA compares their
residual streams on the same tokens.

    python examples/compare_models.py

Where the model hub is out of reach, the two architectures are built small, with random weights, and
the script says so. That is worth a look too: it is how alike two models are that have learned
nothing, because they read the same tokens. A similarity of trained models has to beat that.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import probekit
from probekit.samples import world

N_TEXTS, MAX_TOKENS = 40, 64
SMALL = {  # where weights are random: the same shapes, a quarter as wide and half as deep
    "distilgpt2": {"n_layer": 3, "n_embd": 192, "n_head": 6},
    "gpt2": {"n_layer": 6, "n_embd": 192, "n_head": 6},
}


def main() -> None:
    """Record both, compare them, and draw the matrix."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--random", action="store_true", help="do not try the hub")
    options.add_argument("--out", type=Path, default=Path("runs/examples/compare"))
    chosen = options.parse_args()

    texts = list(world.documents(0, N_TEXTS))
    distil, gpt2 = both(texts, chosen.out, pretrained=not chosen.random)
    found = probekit.compare(distil, gpt2, sites="resid_post")
    print(found)
    matrix = found.matrix("resid_post")
    for number, layer in enumerate(matrix.a_layers):
        best = int(matrix.debiased[number].argmax())
        print(f"layer {layer} of distilgpt2 is most like layer {matrix.b_layers[best]} of gpt2 "
              f"(debiased CKA {matrix.debiased[number, best]:.2f})")  # fmt: skip

    chosen.out.mkdir(parents=True, exist_ok=True)
    matrix.plot(debiased=True).savefig(chosen.out / "cka.png", dpi=150)
    print(f"picture: {chosen.out}/cka.png")


def both(texts: list[str], out: Path, *, pretrained: bool) -> tuple[probekit.Trace, probekit.Trace]:
    """Record both models: the pretrained ones, or small ones with random weights."""
    if pretrained:
        try:
            return record("distilgpt2", texts, out), record("gpt2", texts, out)
        except probekit.ConfigError as error:
            print(f"the pretrained models are out of reach:\n  {error}")
    print("Both models have random weights: they show what reading the same tokens alone makes "
          "alike, and say nothing of distilgpt2 and gpt2 as they were trained.")  # fmt: skip
    random = {"weights": "random", "tokenizer": "sample:tiny-gpt2"}
    distil, gpt2 = (
        record(name, texts, out, seed=seed, overrides=SMALL[name], **random)
        for seed, name in enumerate(SMALL)
    )
    return distil, gpt2


def record(
    name: str, texts: list[str], out: Path, *, seed: int = 0, **model: Any
) -> probekit.Trace:
    """Record the residual stream after every layer."""
    return probekit.run(
        {
            "model": {"name": name, **model},
            "inputs": {"texts": texts, "max_tokens": MAX_TOKENS},
            "probes": [{"sites": "resid_post"}],
            "seed": seed,
            "store": {"path": str(out / name)},
        },
        overwrite=True,
    )


if __name__ == "__main__":
    main()
