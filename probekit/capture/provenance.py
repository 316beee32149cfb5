"""What a trace says about how it was made.

Knows plans and versions; writes nothing.
"""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from typing import Any

import torch

from probekit import models
from probekit.capture.read import meanings_of, version_of
from probekit.config import IN_MEMORY, digest_of_format_1
from probekit.errors import StoreError
from probekit.invocation import command_of_this_process
from probekit.planning import Plan
from probekit.store import Format, RunRecord, schema
from probekit.version import __version__

_LIBRARIES = ("torch", "transformers", "h5py", "numpy")


def run_record(plan: Plan, layout: Format) -> RunRecord:
    """Give what run.json says: what must be equal for a run to go on, and provenance.

    Args:
        plan: of the run.
        layout: the format that the run is in.
    """
    assert plan.examples is not None  # a plan that runs has its inputs
    model = {
        "inputs_digest": plan.examples.digest_of_format_1
        if layout == schema.FIRST
        else plan.examples.digest,
        "model_class": plan.skeleton.model_class,
        "model_commit": _commit(plan),
        "model_digest": None if plan.at_hand else models.model_digest(plan.config),
        **(plan.at_hand.identity if plan.at_hand else {}),
    }
    shards = [shard.to_json() for shard in plan.shards]
    if layout == schema.FIRST:
        changed = [site.spec.name for site in plan.sites if "meaning" in site.spec.details]
        changed += ["generate.strategy: sample"] if _combines(plan) else []
        if changed:
            raise StoreError(
                f"{plan.config.where('store.path')}: the run in {plan.config.store.path} has "
                f"{changed[0]}, which means something else since format 1.1; "
                "finish the run with the version that began it, or --overwrite (in Python "
                "overwrite=True)"
            )
        sites = [site.spec.to_json() for site in plan.sites]
        config_digest = digest_of_format_1(plan.config)
        return RunRecord(
            identity={"config_digest": config_digest, **model, "sites": sites, "shards": shards},
            provenance={**about(plan, layout), "device": _device(plan), "notes": list(plan.notes)},
        )
    return RunRecord(
        identity={
            "format": str(layout),
            "config_digest": plan.config.digest,
            **model,
            "meanings": meanings_of((site.spec.kind for site in plan.sites), plan.config),
            "sites": [site.spec.identity() for site in plan.sites],
            "shards": shards,
        },
        provenance=about(plan, layout),
    )


def _combines(plan: Plan) -> bool:
    generate = plan.config.generate
    return generate is not None and generate.combines


def about(plan: Plan, layout: Format) -> dict[str, Any]:
    """Give what is known of a run before weights load, as HDF5 attributes."""
    model, sizes = plan.config.model, plan.sizes
    first = layout == schema.FIRST
    known = {
        "probekit_format": layout.attribute,
        "probekit_version": __version__,
        **_versions(),
        "python_version": platform.python_version(),
        "model_name": model.name,
        "model_revision": None if plan.at_hand else model.revision,
        "model_commit": _commit(plan),
        "model_class": plan.skeleton.model_class,
        "model_type": plan.skeleton.hf_config.model_type,
        "model_weights": "in-memory" if plan.at_hand else model.weights,
        "model_digest": plan.at_hand.identity["model_weights"] if plan.at_hand else None,
        "trust_remote_code": model.trust_remote_code or None,
        "n_parameters": plan.skeleton.n_parameters,
        "n_layers": sizes.n_layers,
        "n_heads": sizes.n_heads,
        "n_kv_heads": sizes.n_kv_heads,
        "d_model": sizes.d_model,
        "d_mlp": sizes.d_mlp,
        "d_head": sizes.d_head,
        "d_vocab": sizes.d_vocab,
        "tokenizer": _tokenizer(plan),
        "dtype": str(plan.dtype).removeprefix("torch."),
        "seed": plan.config.seed,
        **_about_generation(plan),
        "stopped_after": plan.stop.module if plan.stop is not None else None,
        "config": plan.config.to_yaml() if first else plan.config.decisions_yaml(),
        "config_digest": digest_of_format_1(plan.config) if first else plan.config.digest,
    }
    return {key: value for key, value in known.items() if value is not None}


def _about_generation(plan: Plan) -> dict[str, Any]:
    """Say how many examples a prompt has, and which pass was recorded, where that is not plain."""
    generate = plan.config.generate
    if generate is None or generate.n_each == 1:
        return {}
    if generate.beams == 1:
        return {"n_samples": generate.samples}
    return {
        "n_beams": generate.beams,
        "recorded": "each sequence that the search returned, read again in one pass",
    }


def session(plan: Plan) -> dict[str, Any]:
    """Give what made.json says of a process that works on a run: what equal runs may differ in."""
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "process": os.getpid(),
        "command": command_of_this_process(),
        "device": _kind_of(plan.device),
        "config": plan.config.to_yaml(),
        **_versions(),
        "notes": list(plan.notes),
    }


def _versions() -> dict[str, str | None]:
    return {f"{name}_version": version_of(name) for name in _LIBRARIES}


def about_model(
    plan: Plan, model: torch.nn.Module, device: torch.device, layout: Format
) -> dict[str, Any]:
    """Give the attributes of a shard: `about`, and what the loaded model adds."""
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return {
        **about(plan, layout),
        "attention": str(attention) if attention else "none",
        # Which of several GPUs it was decides nothing; of which kind it is may.
        "device": _named(device if layout == schema.FIRST else torch.device(device.type)),
    }


def _device(plan: Plan) -> str:
    return _named(plan.device)


def _kind_of(device: torch.device) -> str:
    """Name a device without its number: which of several equal ones it was decides nothing."""
    return _named(device).replace(str(device), device.type, 1)


def _named(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device} ({name})"


def _commit(plan: Plan) -> str | None:
    # Of a model in memory it says what it was loaded from, and not what it is.
    return None if plan.at_hand else getattr(plan.skeleton.hf_config, "_commit_hash", None)


def _tokenizer(plan: Plan) -> str | None:
    """Name the tokenizer that the inputs were read with."""
    model = plan.config.model
    if plan.tokenizer is None:
        return None
    if plan.at_hand is not None and model.tokenizer is None:
        return f"{IN_MEMORY}{type(plan.tokenizer).__name__}"
    return model.tokenizer or model.name
