"""The plan: everything that is decided before weights load.

Knows what was decided, and says it; how it was decided is in making.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from probekit import models
from probekit.config import ProbeConfig
from probekit.inputs import ALONE, ANY_LENGTHS, ONE_LENGTH, Choices, Examples, Origin
from probekit.models import AtHand, Sizes, Skeleton, families
from probekit.planning.diskspace import Contents, free_bytes, left_bytes, shortage
from probekit.planning.resolve import SitePlan
from probekit.planning.tensors import Source
from probekit.store import ALL_TOKENS, ShardSpec, SiteSpec
from probekit.wording import counted, human_bytes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will record."""

    config: ProbeConfig
    skeleton: Skeleton
    dtype: torch.dtype  # the model computes in it
    attention: str  # the kernel to load the model with, as a config says it
    sites: tuple[SitePlan, ...]
    stop: Source | None  # a forward pass ends after it; None: it runs to its end
    examples: Examples | None  # None where only a plan was asked for and the tokenizer is missing
    choices: Choices  # of positions of the examples
    origin: Origin  # what decided the examples
    shards: tuple[ShardSpec, ...]  # empty without examples
    tokenizer: Any  # None for random inputs on a model without one
    notes: tuple[str, ...]  # what the user should know before the run
    at_hand: AtHand | None = None  # the model, where a Python call gives it

    def __repr__(self) -> str:
        if self.examples is None:
            known, size = "texts not counted yet", f"{human_bytes(self.token_bytes)} a token"
        else:
            n, n_prompts = len(self.examples), len(self.examples.prompts)
            of = f" of {counted(n_prompts, 'prompt')}" if n_prompts < n else ""
            known = f"{counted(n, 'example')}{of}, {counted(self.examples.total_tokens, 'token')}"
            size = human_bytes(self.total_bytes)
        said = f"{known}, {counted(len(self.sites), 'site')}, {size} at {self.config.store.path}"
        return f"<Plan {self.config.model.name}: {said}>"

    @cached_property
    def sizes(self) -> Sizes:
        """The model's sizes."""
        return families.sizes(self.skeleton.hf_config)

    @property
    def device(self) -> torch.device:
        """The device that the model runs on."""
        if self.at_hand is not None:
            return self.at_hand.device
        return models.compute_device(self.config.model, self.config.where("model.device"))

    @property
    def company(self) -> str:
        """Which texts may share a batch, as far as the model's config and modules tell."""
        if any(mixture.mixes_tokens for mixture in self.skeleton.mixtures.values()):
            return ALONE
        alike = models.depends_on_longest(self.skeleton.hf_config)
        return ONE_LENGTH if alike else ANY_LENGTHS

    @property
    def length_border(self) -> int | None:
        """The length above which the model computes short texts in a batch otherwise."""
        return models.length_border(self.skeleton.hf_config)

    @property
    def logits_to_keep(self) -> int:
        """Positions whose logits a whole pass computes, from the last on; 0 for all of them.

        Where nothing looks at the logits a pass still runs to its end for the execution order, but
        the output head, half the arithmetic of a small model, need not run on every token.
        """
        whole = self.stop is not None or not self.config.early_stop or bool(self.config.generate)
        seen = any(site.source.module in ("", self.skeleton.head) for site in self.sites)
        return 0 if whole or seen or "logits_to_keep" not in self.skeleton.arguments else 1

    @property
    def total_bytes(self) -> int:
        """Bytes of all rows of all sites."""
        return sum(self.site_bytes(site.spec) for site in self.sites)

    @property
    def token_bytes(self) -> int:
        """Bytes that one token adds, over the sites that keep every token."""
        return sum(s.spec.row_bytes for s in self.sites if s.spec.rows == ALL_TOKENS)

    @cached_property
    def contents(self) -> Contents:
        """What the run writes, as far as its size goes."""
        config, order = self.config, self.config.execution_order
        return Contents(
            path=config.store.folder,
            where=config.where("store.path"),
            sites=tuple(site.spec for site in self.sites),
            shards=self.shards,
            string_bytes=() if self.examples is None else self.examples.string_bytes,
            has_spans=self.examples is not None and self.examples.has_spans,
            config_bytes=_config_bytes(config),
            n_modules=len(self.skeleton.modules) if order else 0,
            n_words=(self.sizes.d_vocab or 0) if self.tokenizer is not None else 0,
            is_generated=config.generate is not None and config.generate.beams == 1,
            n_each=config.generate.n_each if config.generate else 1,
            is_compressed=config.store.compression is not None,
        )

    @property
    def free_bytes(self) -> int:
        """Free bytes where the trace will lie."""
        return free_bytes(self.config.store.folder, self.config.where("store.path"))

    @property
    def needed_bytes(self) -> int | None:
        """Bytes still to be written, shards that are sealed left out; None without examples."""
        return None if self.examples is None else left_bytes(self.contents)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the run would be refused: a disk that is too small."""
        short = shortage(self.contents) if self.examples is not None else None
        return () if short is None else (short,)

    def site_rows(self, spec: SiteSpec) -> int:
        """Count the rows of a site in the whole trace."""
        return sum(shard.n_rows[spec.rows] for shard in self.shards)

    def site_bytes(self, spec: SiteSpec) -> int:
        """Count the bytes of a site in the whole trace."""
        return self.site_rows(spec) * spec.row_bytes

    def to_json(self) -> dict[str, Any]:
        """Give the plan as plain JSON values; sizes carry `_bytes`."""
        known = self.examples is not None
        return {
            "model": self.config.model.name,
            "model_class": self.skeleton.model_class,
            "n_parameters": self.skeleton.n_parameters,
            "dtype": str(self.dtype).removeprefix("torch."),
            "n_examples": len(self.examples) if self.examples is not None else None,
            "n_tokens": self.examples.total_tokens if self.examples is not None else None,
            "n_shards": len(self.shards) if known else None,
            "stops_after": self.stop.module if self.stop else None,
            "token_bytes": self.token_bytes,
            "total_bytes": self.total_bytes if known else None,
            "needed_bytes": self.needed_bytes,
            "free_bytes": self.free_bytes,
            "sites": [
                {
                    "name": s.spec.name,
                    "axes": list(s.spec.axes),
                    "rows": self.site_rows(s.spec) if known else None,
                    "row_shape": list(s.spec.row_shape),
                    "dtype": s.spec.dtype,
                    "row_bytes": s.spec.row_bytes,
                    "bytes": self.site_bytes(s.spec) if known else None,
                    "layer": s.spec.layer,
                    "portable": s.spec.portable,
                }
                for s in self.sites
            ],
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


def _config_bytes(config: ProbeConfig) -> int:
    """Estimate the bytes of a config as YAML: as JSON, which is written a hundred times as fast."""
    text = json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False)
    return len(text.encode()) * 11 // 10  # YAML breaks long lines
