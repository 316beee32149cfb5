"""Capture to disk against the same forward passes bare: distilgpt2's shape, random float32.

The bare side runs the very batches of the capture and records nothing, logits of every token
included. The capture side is capture/running.py's `capture` on the same loaded model: hooks, rows,
files, checksums and fsync. What of that is the disk's is shown by the least that any capture must
do: hooks that write what they see into one open file, one fsync at the end, and nothing else.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import torch
from jobs import Job, load, mlp_acts, plan_of
from pairs import compare, options, report

from probekit.store.format.disk import write_in_pieces


def write_only(job: Job) -> None:
    """Run the batches with hooks that write what they see, and nothing else."""
    job.folder.mkdir()
    fd = os.open(job.folder / "plain", os.O_WRONLY | os.O_CREAT)
    os.ftruncate(fd, sum(job.plan.site_bytes(site.spec) for site in job.plan.sites))
    ends = [0]  # of what is written

    def write(module: torch.nn.Module, args: object, output: torch.Tensor) -> None:
        data = memoryview(output.numpy().reshape(-1)).cast("B")
        write_in_pieces(fd, data, ends[-1])
        ends.append(ends[-1] + len(data))

    modules = [job.model.get_submodule(site.spec.module) for site in job.plan.sites]
    handles = [module.register_forward_hook(write) for module in modules]
    job.bare()
    for handle in handles:
        handle.remove()
    os.fsync(fd)
    os.close(fd)


def main() -> None:
    """Measure, print, and write JSON if asked."""
    given = options(__doc__)
    n_examples, n_pairs = (4, 2) if given.quick else (64, 7)
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
            results.append(
                compare(
                    measure,
                    job.record,
                    job.bare,
                    n_pairs=n_pairs,
                    target=target,
                    before=job.clear,
                )
            )
            if not more:
                continue
            measure = f"the same by hooks that only write, {n_examples} x 128 tokens"
            results.append(
                compare(
                    measure,
                    partial(write_only, job),
                    job.bare,
                    n_pairs=n_pairs,
                    target="(the least)",
                    before=job.clear,
                )
            )
    report(results, given.json)


if __name__ == "__main__":
    main()
