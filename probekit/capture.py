"""The whole walk: a config in, a trace out."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from probekit import __version__, models, packing, schema, shards
from probekit.config import ProbeConfig, RecordKind, load_config
from probekit.errors import CaptureError, ProbekitError
from probekit.folder import RunFolder, RunRecord
from probekit.hooks import HookManager, Tap
from probekit.index import build_index
from probekit.order import OrderRecorder
from probekit.packing import Batch
from probekit.planning import Plan, SitePlan, make_plan
from probekit.schema import ShardSpec
from probekit.skeleton import forward_arguments
from probekit.trace import Trace, open_trace
from probekit.writer import ShardWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come."""

    examples: int
    n_examples: int
    tokens: int  # captured by this process
    n_bytes: int  # written by this process
    seconds: float  # since the first forward pass


Watcher = Callable[[Progress], None]


def run(
    config: str | Path | Mapping[str, Any] | ProbeConfig,
    *,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    on_progress: Watcher | None = None,
) -> Trace:
    """Carry out a config: run the model over the inputs and record what the probes ask for.

    A run that was cut short goes on where it stopped; one that is finished is opened.

    Args:
        config: a YAML file's path, a mapping, or a config.
        overrides: `key=value` strings, as `--set` takes them.
        overwrite: begin anew where the folder holds another run.
        on_plan: told the plan, before weights load.
        on_progress: told how far the run is, after every batch.

    Returns:
        The trace, opened for reading.

    Raises:
        ConfigError: the config is wrong, or its model or inputs cannot be had.
        PlanError: a probe cannot be carried out on this model.
        CaptureError: the model failed, or gave something else than was planned.
        StoreError: the trace cannot be written.
    """
    config = load_config(config, overrides=overrides)
    plan = make_plan(config)
    if on_plan is not None:
        on_plan(plan)
    device = models.compute_device(config.model, config.where("model.device"))
    path = Path(config.store.path)
    with RunFolder(path, _record(plan), overwrite=overwrite) as folder:
        todo = [shard for shard in plan.shards if shard.number not in folder.sealed()]
        if todo:
            model = models.load_model(config, plan.skeleton.hf_config, device)
            _check_model(model, plan)
            capture(model, plan, todo, path, device, on_progress)
        if todo or not (path / schema.INDEX_FILE).exists():
            _index(plan, path)
    return open_trace(path)


def capture(
    model: torch.nn.Module,
    plan: Plan,
    todo: Sequence[ShardSpec],
    path: Path,
    device: torch.device,
    on_progress: Watcher | None = None,
) -> None:
    """Run the model over some shards of a plan and seal each."""
    sites = [site.spec for site in plan.sites]
    attributes = _attributes(plan, model, device)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        receiver = _Receiver(plan)
        stack.enter_context(HookManager(model, receiver.taps()))
        order = None
        if plan.config.execution_order:
            order = stack.enter_context(OrderRecorder(model))
        meter = _Meter(plan, todo, on_progress)
        for shard in todo:
            assert plan.examples is not None  # a plan that runs has its inputs
            tables = shards.tables(plan.examples, shard)
            compression = plan.config.store.compression
            with ShardWriter(
                path, shard, sites, tables, attributes, compression=compression
            ) as out:
                for batch in _batches(plan, shard, tables, device):
                    receiver.expect(batch, out)
                    seconds = _forward(model, batch)
                    receiver.check()
                    if order is not None:
                        order.end_forward(
                            phase="forward",
                            examples=[shard.first_example + n for n in batch.numbers],
                            n_tokens=batch.n_tokens,
                            seconds=seconds,
                        )
                    meter.advance(batch, receiver.n_bytes)
                out.seal(order.execution() if order is not None else None)
            if order is not None:
                order.clear()


def _batches(plan: Plan, shard: ShardSpec, tables: Any, device: torch.device) -> Iterator[Batch]:
    for numbers in shards.batches(tables.n_tokens, plan.config.inputs.batch_tokens):
        yield packing.make_batch(
            numbers,
            tables.n_tokens,
            tables.token_ids,
            kept=shard.n_rows,
            accepted=forward_arguments(plan.skeleton.arguments),
            device=device,
        )


def _forward(model: torch.nn.Module, batch: Batch) -> float:
    """Run one batch; give the seconds it took."""
    begin = time.perf_counter()
    try:
        model(**batch.arguments)
    except ProbekitError:
        raise
    except Exception as error:
        # Whatever the model's own code raises: said once, with the batch it happened on.
        raise CaptureError(
            f"the model failed on a batch of {list(batch.shape)} [example, token]: "
            f"{type(error).__name__}: {error}"
        ) from error
    return time.perf_counter() - begin


class _Receiver:
    """Takes tensors from the taps, packs them and hands them to the open shard."""

    def __init__(self, plan: Plan) -> None:
        self._sites = plan.sites
        self._dtypes = [getattr(torch, site.spec.dtype) for site in plan.sites]
        self._came = [False] * len(plan.sites)
        self.n_bytes = 0

    def taps(self) -> list[Tap]:
        return [self._tap(number, site) for number, site in enumerate(self._sites)]

    def _tap(self, number: int, site: SitePlan) -> Tap:
        kind = RecordKind.parse(site.spec.kind)
        return Tap(
            module=site.spec.module,
            side=kind.name,
            element=kind.element,
            call=site.call,
            sink=lambda tensor: self._take(number, tensor),
        )

    def expect(self, batch: Batch, out: ShardWriter) -> None:
        self._batch, self._out = batch, out
        self._came = [False] * len(self._sites)

    def check(self) -> None:
        """Refuse to go on when a site stayed silent."""
        silent = [s.spec.name for s, came in zip(self._sites, self._came, strict=True) if not came]
        if silent:
            raise CaptureError(
                f"{', '.join(silent[:5])}: did not run in this forward pass, although the plan "
                "said so; the model's code takes another path than on plain tokens"
            )

    def _take(self, number: int, tensor: torch.Tensor) -> None:
        site = self._sites[number]
        try:
            rows, starts = packing.pack(
                tensor,
                site.axes,
                self._batch,
                self._batch.rows[site.spec.rows],
                self._dtypes[number],
            )
        except CaptureError as error:
            raise CaptureError(f"{site.spec.name}: {error}") from error
        block = packing.to_storage(rows.cpu())
        self._out.write(number, block, self._batch.numbers, starts)
        self._came[number] = True
        self.n_bytes += len(self._batch.rows[site.spec.rows].places) * site.spec.row_bytes


class _Meter:
    """Keeps count and tells the watcher."""

    def __init__(self, plan: Plan, todo: Sequence[ShardSpec], watcher: Watcher | None) -> None:
        self._watcher = watcher
        self._n_examples = sum(s.n_examples for s in plan.shards)
        self._examples = self._n_examples - sum(s.n_examples for s in todo)
        self._tokens = 0
        self._begin = time.perf_counter()

    def advance(self, batch: Batch, n_bytes: int) -> None:
        self._examples += len(batch.numbers)
        self._tokens += batch.n_tokens
        if self._watcher is not None:
            self._watcher(
                Progress(
                    examples=self._examples,
                    n_examples=self._n_examples,
                    tokens=self._tokens,
                    n_bytes=n_bytes,
                    seconds=time.perf_counter() - self._begin,
                )
            )


def _check_model(model: torch.nn.Module, plan: Plan) -> None:
    """Refuse a model that is not the planned one."""
    there = {path: type(module).__name__ for path, module in model.named_modules() if path}
    if there != plan.skeleton.modules:
        odd = sorted(set(there.items()) ^ set(plan.skeleton.modules.items()))
        raise CaptureError(
            f"the loaded model is not the planned one; it differs at: "
            f"{', '.join(f'{path} ({kind})' for path, kind in odd[:5])}"
        )


# --- what a trace says about how it was made


def _record(plan: Plan) -> RunRecord:
    assert plan.examples is not None  # a plan that runs has its inputs
    return RunRecord(
        identity={
            "config_digest": plan.config.digest,
            "inputs_digest": plan.examples.digest(),
            "model_class": plan.skeleton.model_class,
            "model_commit": _commit(plan),
            "sites": [site.spec.to_json() for site in plan.sites],
            "shards": [shard.to_json() for shard in plan.shards],
        },
        provenance={**_about(plan), "notes": list(plan.notes)},
    )


def _about(plan: Plan) -> dict[str, Any]:
    """Give what is known of a run before weights load."""
    model, sizes = plan.config.model, plan.sizes
    known = {
        "probekit_format": schema.FORMAT,
        "probekit_version": __version__,
        **{f"{p}_version": metadata.version(p) for p in ("torch", "transformers", "h5py", "numpy")},
        "python_version": platform.python_version(),
        "model_name": model.name,
        "model_revision": model.revision,
        "model_commit": _commit(plan),
        "model_class": plan.skeleton.model_class,
        "model_type": plan.skeleton.hf_config.model_type,
        "model_weights": model.weights,
        "n_parameters": plan.skeleton.n_parameters,
        "n_layers": sizes.n_layers,
        "n_heads": sizes.n_heads,
        "n_kv_heads": sizes.n_kv_heads,
        "d_model": sizes.d_model,
        "d_mlp": sizes.d_mlp,
        "d_head": sizes.d_head,
        "d_vocab": sizes.d_vocab,
        "tokenizer": model.tokenizer or model.name if plan.tokenizer is not None else None,
        "dtype": str(plan.dtype).removeprefix("torch."),
        "seed": plan.config.seed,
        "config": plan.config.to_yaml(),
        "config_digest": plan.config.digest,
    }
    return {key: value for key, value in known.items() if value is not None}


def _attributes(plan: Plan, model: torch.nn.Module, device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    attention = getattr(model.config, "_attn_implementation", None)
    return {
        **_about(plan),
        "attention": str(attention) if attention else "none",
        "device": f"{device} ({name})",
    }


def _commit(plan: Plan) -> str | None:
    return getattr(plan.skeleton.hf_config, "_commit_hash", None)


def _index(plan: Plan, path: Path) -> None:
    vocabulary = None if plan.tokenizer is None else models.token_strings(plan.tokenizer)
    build_index(path, plan.shards, [s.spec for s in plan.sites], _about(plan), vocabulary)
