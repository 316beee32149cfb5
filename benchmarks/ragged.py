"""Capture of unequal texts against the loop a user would write: distilgpt2's shape, random float32.

512 texts of 8 to 256 tokens, every `mlp.act`. The user's loop takes them 16 at a time in the order
in which they come, pads each batch to its longest, runs the whole model, copies what the hooks saw
to the CPU, and writes one h5py dataset a batch and module. Both sides end with an fsync. What the
two have stored is checked to be equal before anything is timed.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jobs import Job, load, mlp_acts, plan_of
from pairs import compare, options, report

BATCH = 16


def by_hand(job: Job, path: Path) -> None:
    """Write it as a user would: plain hooks, padding, one dataset a batch."""
    examples = job.plan.examples
    assert examples is not None
    kept: dict[str, torch.Tensor] = {}
    names = [site.spec.module for site in job.plan.sites]

    def keep(name: str) -> Any:
        return lambda module, args, output: kept.__setitem__(name, output.cpu())

    handles = [job.model.get_submodule(n).register_forward_hook(keep(n)) for n in names]
    with h5py.File(path, "w") as file:
        for begin in range(0, len(examples), BATCH):
            texts = [
                torch.from_numpy(examples.token_ids(e, e + 1).astype(np.int64))
                for e in range(begin, min(len(examples), begin + BATCH))
            ]
            ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
            lengths = torch.tensor([len(t) for t in texts])
            mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
            job.model(input_ids=ids, attention_mask=mask)
            for name, rows in kept.items():
                file.create_dataset(f"{name}/{begin}", data=rows.numpy())
    for handle in handles:
        handle.remove()
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def check_equal(job: Job, path: Path) -> None:
    """Compare every row of both stores."""
    examples = job.plan.examples
    assert examples is not None
    with h5py.File(path) as theirs:
        for shard in job.plan.shards:
            with h5py.File(job.folder / shard.file) as ours:
                firsts = ours["examples/first_token"][:] - shard.first_token
                for local, first in enumerate(firsts):
                    example = shard.first_example + local
                    n = int(examples.n_tokens[example])
                    for site in job.plan.sites:
                        rows = ours[f"sites/{site.spec.name}"][first : first + n]
                        batch = theirs[f"{site.spec.module}/{example - example % BATCH}"]
                        np.testing.assert_allclose(rows, batch[example % BATCH, :n], atol=1e-4)


def main() -> None:
    """Measure, print, and write JSON if asked."""
    given = options(__doc__)
    n_examples, n_pairs = (6, 2) if given.quick else (512, 7)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        folder, file = Path(scratch) / "run", Path(scratch) / "by_hand.h5"
        plan = plan_of(folder, mlp_acts(6), examples=n_examples, tokens=(8, 256), batch_tokens=2048)
        job = Job(model=load(plan), plan=plan, folder=folder, device=torch.device("cpu"))
        job.record()
        by_hand(job, file)
        check_equal(job, file)
        result = compare(
            f"{n_examples} texts of 8 to 256 tokens, six mlp.act",
            job.record,
            lambda: by_hand(job, file),
            n_pairs=n_pairs,
            before=job.clear,
            target="<= 0.40",
        )
    report([result], given.json)


if __name__ == "__main__":
    main()
