"""What a trace says about how it was made.

Knows plans and versions; writes nothing.
"""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata
from typing import Any

import torch

from probekit import models
from probekit.planning import Plan
from probekit.store import RunRecord, schema
from probekit.version import __version__

_LIBRARIES = ("torch", "transformers", "h5py", "numpy")


def run_record(plan: Plan) -> RunRecord:
    """Give what run.json says: what must be equal for a run to go on, and provenance."""
    assert plan.examples is not None  # a plan that runs has its inputs
    return RunRecord(
        identity={
            "config_digest": plan.config.digest,
            "inputs_digest": plan.examples.digest,
            "model_class": plan.skeleton.model_class,
            "model_commit": _commit(plan),
            "model_digest": models.model_digest(plan.config),
            "sites": [site.spec.to_json() for site in plan.sites],
            "shards": [shard.to_json() for shard in plan.shards],
        },
        provenance={**about(plan), "device": _device(plan), "notes": list(plan.notes)},
    )


def about(plan: Plan) -> dict[str, Any]:
    """Give what is known of a run before weights load, as HDF5 attributes."""
    model, sizes = plan.config.model, plan.sizes
    known = {
        "probekit_format": schema.FORMAT,
        "probekit_version": __version__,
        **_versions(),
        "python_version": platform.python_version(),
        "model_name": model.name,
        "model_revision": model.revision,
        "model_commit": _commit(plan),
        "model_class": plan.skeleton.model_class,
        "model_type": plan.skeleton.hf_config.model_type,
        "model_weights": model.weights,
        "trust_remote_code": model.trust_remote_code or None,
        "n_parameters": plan.skeleton.n_parameters,
        "n_layers": sizes.n_layers,
        "n_heads": sizes.n_heads,
        "n_kv_heads": sizes.n_kv_heads,
        "d_model": sizes.d_model,
        "d_mlp": sizes.d_mlp,
        "d_head": sizes.d_head,
        "d_vocab": sizes.d_vocab,
        "tokenizer": (model.tokenizer or model.name) if plan.tokenizer is not None else None,
        "dtype": str(plan.dtype).removeprefix("torch."),
        "seed": plan.config.seed,
        "stopped_after": plan.stop.module if plan.stop is not None else None,
        "config": plan.config.to_yaml(),
        "config_digest": plan.config.digest,
    }
    return {key: value for key, value in known.items() if value is not None}


@cache  # finding one takes a millisecond, and every run asks twice
def _versions() -> dict[str, str]:
    return {f"{name}_version": metadata.version(name) for name in _LIBRARIES}


def about_model(plan: Plan, model: torch.nn.Module, device: torch.device) -> dict[str, Any]:
    """Give the attributes of a shard: `about`, and what the loaded model adds."""
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return {
        **about(plan),
        "run_digest": run_record(plan).digest,
        "attention": str(attention) if attention else "none",
        "device": _named(device),
    }


def _device(plan: Plan) -> str:
    where = plan.config.where("model.device")
    return _named(models.compute_device(plan.config.model, where))


def _named(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device} ({name})"


def _commit(plan: Plan) -> str | None:
    return getattr(plan.skeleton.hf_config, "_commit_hash", None)
