"""Jobs that several benchmarks time: a planned capture, and its batches through the bare model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from probekit import models
from probekit.capture import running as capture
from probekit.capture.rows import packing
from probekit.config.loading import load_config
from probekit.inputs import shards
from probekit.models.skeleton import forward_arguments
from probekit.planning.making import make_plan
from probekit.planning.planned import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A capture of random texts by a model with random weights, ready to run again and again."""

    model: torch.nn.Module
    plan: Plan
    folder: Path  # to be cleared before every capture
    device: torch.device

    def record(self) -> None:
        """Capture to disk: hooks, rows, files, checksums and fsync; no index."""
        capture.capture(self.model, self.plan, self.plan.shards, self.folder, self.device)

    def clear(self) -> None:
        """Remove the last capture."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def bare(self) -> None:
        """Run the very batches of the capture and keep nothing."""
        for batch in self.batches():
            self.model(**batch)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def batches(self) -> list[Mapping[str, Any]]:
        """Give the arguments of every forward pass, on the device."""
        assert self.plan.examples is not None
        made = []
        with torch.inference_mode():
            for shard in self.plan.shards:
                tables = shards.tables(self.plan.examples, shard)
                budget = shards.Budget.on(self.device.type, self.plan.config.inputs.batch_tokens)
                made += [
                    packing.make_batch(
                        numbers,
                        tables.n_tokens,
                        tables.token_ids,
                        choices=(),
                        kept=set(),
                        accepted=forward_arguments(self.plan.skeleton.arguments),
                        device=self.device,
                    ).arguments
                    for numbers in shards.batches(tables.n_tokens, budget)
                ]
        return made


def plan_of(
    folder: Path,
    modules: Sequence[str],
    *,
    model: str = "distilgpt2",
    examples: int,
    tokens: tuple[int, int],
    batch_tokens: int,
    device: str = "cpu",
    dtype: str = "float32",
    **more: Any,
) -> Plan:
    """Plan a capture of random texts of `tokens` (least, most) tokens."""
    least, most = tokens
    return make_plan(
        load_config(
            {
                "model": {"name": model, "weights": "random", "device": device, "dtype": dtype},
                "inputs": {
                    "random": {"examples": examples, "min_tokens": least, "max_tokens": most},
                    "batch_tokens": batch_tokens,
                },
                "probes": [{"modules": list(modules)}],
                "store": {"path": str(folder)},
                **more,
            }
        )
    )


def load(plan: Plan) -> torch.nn.Module:
    """Build the model of a plan."""
    device = torch.device(plan.config.model.device)
    loaded: torch.nn.Module = models.load_model(plan.config, plan.skeleton.hf_config, device)
    return loaded


def mlp_acts(n_layers: int) -> list[str]:
    """Name the GPT-2 MLP activations of the first layers."""
    return [f"transformer.h.{layer}.mlp.act" for layer in range(n_layers)]
