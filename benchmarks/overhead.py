"""Capture to disk against the same forward passes bare: distilgpt2's shape, random float32.

The bare side runs the very batches of the capture and records nothing, logits of every token
included. The capture side is `probekit.capture.capture` on the same loaded model: hooks, rows,
files, checksums and fsync.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from jobs import Job, load, mlp_acts, plan_of
from pairs import compare, options, report


def main() -> None:
    """Measure, print, and write JSON if asked."""
    given = options(__doc__)
    n_examples, n_pairs = (16, 3) if given.quick else (64, 7)
    cases = [
        ("six mlp.act, early stop off", mlp_acts(6), {"early_stop": False}, "<= 1.05"),
        ("six mlp.act, early stop on", mlp_acts(6), {}, "<= 0.65"),
        ("layers 0 and 1 of 6", mlp_acts(2), {}, "<= 0.30"),
    ]
    results = []
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        folder, model = Path(scratch) / "run", None
        for measure, modules, more, target in cases:
            plan = plan_of(
                folder, modules, examples=n_examples, tokens=(128, 128), batch_tokens=2048, **more
            )
            model = model or load(plan)
            job = Job(model=model, plan=plan, folder=folder, device=torch.device("cpu"))
            measure = f"{measure}, {n_examples} x 128 tokens"
            results.append(compare(measure, job.record, job.bare, n_pairs=n_pairs, target=target))
    report(results, given.json)


if __name__ == "__main__":
    main()
