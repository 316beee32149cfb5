"""Capture to disk against the same forward passes bare: distilgpt2's shape, random float32.

The bare side runs the very batches of the capture and records nothing. The capture side is
`probekit.capture.capture` on the same loaded model: hooks, rows, files, checksums and fsync.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from pairs import compare, options, report

from probekit import capture, models, packing, shards
from probekit.config import load_config
from probekit.planning import Plan, make_plan
from probekit.skeleton import forward_arguments


def plan_of(folder: Path, modules: list[str], n_examples: int, **more: object) -> Plan:
    """Plan a capture of texts of 128 random tokens."""
    return make_plan(
        load_config(
            {
                "model": {"name": "distilgpt2", "weights": "random", "device": "cpu"},
                "inputs": {
                    "random": {"examples": n_examples, "min_tokens": 128, "max_tokens": 128},
                    "batch_tokens": 2048,
                },
                "probes": [{"modules": modules}],
                "store": {"path": str(folder)},
                **more,
            }
        )
    )


def bare_forwards(model: torch.nn.Module, plan: Plan) -> None:
    """Run the batches of a plan and keep nothing."""
    assert plan.examples is not None
    tables = shards.tables(plan.examples, plan.shards[0])
    with torch.inference_mode():
        for numbers in shards.batches(
            tables.n_tokens, shards.Room(plan.config.inputs.batch_tokens)
        ):
            batch = packing.make_batch(
                numbers,
                tables.n_tokens,
                tables.token_ids,
                choices=(),
                accepted=forward_arguments(plan.skeleton.arguments),
                device=torch.device("cpu"),
            )
            model(**batch.arguments)


def main() -> None:
    """Measure, print, and write JSON if asked."""
    given = options(__doc__)
    n_examples, n_pairs = (16, 3) if given.quick else (64, 7)
    every = [f"transformer.h.{layer}.mlp.act" for layer in range(6)]
    cases = [
        ("six mlp.act, early stop off", every, {"early_stop": False}, "<= 1.05"),
        ("six mlp.act, early stop on", every, {}, "<= 0.65"),
        ("layers 0 and 1 of 6", every[:2], {}, "<= 0.30"),
    ]
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        first = plan_of(folder, every, n_examples)
        model = models.load_model(first.config, first.skeleton.hf_config, torch.device("cpu"))
        for measure, modules, more, target in cases:
            plan = plan_of(folder, modules, n_examples, **more)

            def record(plan: Plan = plan) -> None:
                shutil.rmtree(folder, ignore_errors=True)
                capture.capture(model, plan, plan.shards, folder, torch.device("cpu"))

            results.append(
                compare(
                    f"{measure}, {n_examples} x 128 tokens",
                    record,
                    lambda plan=plan: bare_forwards(model, plan),
                    n_pairs=n_pairs,
                    target=target,
                )
            )
    report(results, given.json)


if __name__ == "__main__":
    main()
