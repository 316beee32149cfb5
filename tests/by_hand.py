"""The oracles: batches padded by hand, plain PyTorch hooks, and the bytes of a store by bare h5py.

Nothing here imports probekit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tiny_models as tiny
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

# Unequal lengths, out of order, two of them equal; 101 words, token n is the word "n".
EXAMPLES = (
    (5, 17, 99, 3, 3),
    (8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20),
    (40, 41, 42, 43, 44, 45, 46, 47, 48),
    (100, 4, 99, 5, 98, 6, 97, 7, 96, 8, 95, 9, 94),
    (60, 61),
    (70, 30, 71, 31, 72, 32, 73),
)
N_TOKENS = sum(map(len, EXAMPLES))
BATCH_TOKENS = 30  # makes batches of [2, 13], [3, 9] and [1, 2] tokens, padding included

# --- folders and configs


def save_words(folder: Path, n_words: int = tiny.D_VOCAB) -> Path:
    """Save a tokenizer that reads "5 17 99" as the token ids 5, 17, 99."""
    words = Tokenizer(models.WordLevel({str(n): n for n in range(n_words)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return folder


def save_model(folder: Path, model: Any) -> Path:
    """Save a model as a local folder, and the tokenizer of `save_words` in `words` below it.

    Not beside it: for some model types transformers brings a tokenizer of its own.
    """
    model.save_pretrained(folder)
    save_words(folder / "words")
    return folder


def save_tiny(folder: Path, model_type: str, **overrides: Any) -> Path:
    """Save the tiny model of a family as `save_model` does."""
    return save_model(folder, tiny.build(model_type, **overrides))


def text_of(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def config(
    model: Path | str, store: Path | str, *, probes: Sequence[Mapping[str, Any]], **more: Any
) -> dict[str, Any]:
    """Make the mapping of a config over `EXAMPLES`; `model__dtype=...` sets a nested key."""
    made: dict[str, Any] = {
        "model": {"name": str(model), "tokenizer": str(Path(model) / "words"), "device": "cpu"},
        "inputs": {"texts": [text_of(ids) for ids in EXAMPLES], "batch_tokens": BATCH_TOKENS},
        "probes": [dict(probe) for probe in probes],
        "store": {"path": str(store)},
    }
    for key, value in more.items():
        part, _, name = key.partition("__")
        if name:
            made[part][name] = value
        else:
            made[part] = value
    return made


# --- batches


def batches(
    shard: Sequence[int] = range(len(EXAMPLES)), batch_tokens: int = BATCH_TOKENS
) -> list[list[int]]:
    """Group a shard's examples: longest first, equal lengths in order, as many as there is room
    for when all are as long as the first.
    """
    left = sorted(shard, key=lambda number: -len(EXAMPLES[number]))
    groups = []
    while left:
        size = max(1, batch_tokens // len(EXAMPLES[left[0]]))
        groups.append(left[:size])
        left = left[size:]
    return groups


def pad(examples: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Pad on the right: `input_ids`, `attention_mask`, `position_ids`, each int64 [batch, pos]."""
    width = max(map(len, examples))
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    mask, positions = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, example in enumerate(examples):
        for position, token in enumerate(example):
            ids[row, position] = token
            mask[row, position] = 1
            positions[row, position] = position
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


# --- hooks


@dataclass
class Call:
    """One call of a module, as plain hooks saw it; every tensor is a copy."""

    module: str
    number: int  # 0 for its first call in the pass
    inputs: dict[str, Tensor] = field(default_factory=dict)  # by position, or by keyword
    outputs: dict[str, Tensor] = field(default_factory=dict)  # by position, by key, or ""

    def first(self, side: str) -> Tensor | None:
        return next(iter(getattr(self, f"{side}s").values()), None)

    def name(self, side: str) -> str:
        """The site's name on disk: later calls of a module carry their number."""
        return f"{self.module}/{side}" + (f"@{self.number}" if self.number else "")


@dataclass
class Watched:
    """Everything hand-written hooks saw in one forward pass."""

    calls: list[Call] = field(default_factory=list)  # in the order they were entered
    events: list[tuple[str, int, int]] = field(default_factory=list)  # module, entered, depth
    result: Any = None

    def sites(self) -> dict[str, Tensor]:
        """First tensor of each side of each call, by site name."""
        found = {c.name(side): c.first(side) for c in self.calls for side in ("input", "output")}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


def tensors(values: Any) -> dict[str, Tensor]:
    if isinstance(values, Tensor):
        return {"": values.clone()}
    if isinstance(values, Mapping):
        pairs = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, tuple | list):
        pairs = [(str(place), value) for place, value in enumerate(values)]
    else:
        pairs = []
    return {key: value.clone() for key, value in pairs if isinstance(value, Tensor)}


@contextmanager
def watching(model: nn.Module) -> Iterator[Watched]:
    """Hook every module below a model for the time of a block."""
    seen, stack, counts, handles = Watched(), [], {}, []

    def enter(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            call = Call(path, counts.get(path, 0))
            counts[path] = call.number + 1
            call.inputs = tensors(args) | tensors(kwargs)
            seen.events.append((path, 1, len(stack)))
            seen.calls.append(call)
            stack.append(call)

        return hook

    def leave(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            stack.pop().outputs = tensors(output)
            seen.events.append((path, 0, len(stack)))

        return hook

    for path, module in model.named_modules():
        if path:
            handles.append(module.register_forward_pre_hook(enter(path), with_kwargs=True))
            handles.append(module.register_forward_hook(leave(path)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def watch(model: nn.Module, **inputs: Any) -> Watched:
    """Run a model once under hand-written hooks."""
    with watching(model) as seen, torch.no_grad():
        seen.result = model(**inputs, use_cache=False)
    return seen


def rows_of_text(model: Any, tokens: list[int], module: str) -> np.ndarray[Any, Any]:
    """Give what a module gives for each token of one text, `[token, ...]`."""
    rows: list[Tensor] = []
    handle = model.get_submodule(module).register_forward_hook(
        lambda m, a, o: rows.append((o if torch.is_tensor(o) else o[0])[0])
    )
    with torch.no_grad():
        model(torch.tensor([tokens]))
    handle.remove()
    return np.asarray(rows[0])


def n_hooks(model: nn.Module) -> int:
    """Count every kind of hook on every module, the root included."""
    return sum(
        len(hooks)
        for module in model.modules()
        for name, hooks in vars(module).items()
        if name.startswith("_") and name.endswith("_hooks") and isinstance(hooks, dict)
    )


def layout(tensor: Tensor, n_examples: int, width: int) -> str | None:
    """Say where the tokens of a padded batch are: "plain" [batch, pos, ...], "folded"
    [batch * pos, ...], "heads" [batch, head, pos, d_head]; None where there is no row a token.
    """
    shape = tuple(tensor.shape)
    if shape[:2] == (n_examples, width) and width not in shape[2:]:
        return "plain"
    if shape[0] == n_examples * width:
        return "folded"
    if len(shape) == 4 and (shape[0], shape[2]) == (n_examples, width) and shape[3] != width:
        return "heads"
    return None


def rows_of(tensor: Tensor, lengths: Sequence[int], how: str) -> list[Tensor]:
    """Cut a padded tensor of a known layout into the rows of each example, [token, ...]."""
    if how == "folded":
        tensor = tensor.reshape(len(lengths), max(lengths), *tensor.shape[1:])
    if how == "heads":
        tensor = tensor.transpose(1, 2)
    return [tensor[row, :length] for row, length in enumerate(lengths)]


@dataclass
class Joined:
    """What hand-written hooks saw of all examples, a batch at a time."""

    groups: Sequence[Sequence[int]]  # the numbers of the examples of each batch
    sites: Sequence[Mapping[str, Tensor]]  # of each batch
    layouts: Mapping[str, str]  # of every site that has one row a token

    def __call__(self, name: str) -> Tensor:
        """Give the rows of a site, [token, ...], in example order."""
        parts: dict[int, Tensor] = {}
        for group, sites in zip(self.groups, self.sites, strict=True):
            lengths = [len(EXAMPLES[number]) for number in group]
            cut = rows_of(sites[name], lengths, self.layouts[name])
            parts |= dict(zip(group, cut, strict=True))
        return torch.cat([parts[number] for number in range(len(EXAMPLES))])


def watch_batches(
    model: nn.Module, shards: Sequence[Sequence[int]] = (range(len(EXAMPLES)),)
) -> Joined:
    """Watch a model on `EXAMPLES`, in the batches that probekit is to make of each shard."""
    groups = [group for shard in shards for group in batches(shard)]
    sites = [watch(model, **pad([EXAMPLES[n] for n in group])).sites() for group in groups]
    # Sizes that no head and no layer has, so that no axis can be taken for another.
    sample = watch(model, **pad([EXAMPLES[1], EXAMPLES[3]])).sites()
    found = {name: layout(tensor, 2, 13) for name, tensor in sample.items()}
    return Joined(groups, sites, {name: how for name, how in found.items() if how})


def watch_alone(model: nn.Module, layouts: Mapping[str, str]) -> Joined:
    """Watch a model on one unpadded example at a time, with no mask and no positions."""
    sites = [watch(model, input_ids=torch.tensor([ids])).sites() for ids in EXAMPLES]
    return Joined([[n] for n in range(len(EXAMPLES))], sites, layouts)


# --- what lies on disk


def site_names(file: Path) -> set[str]:
    with h5py.File(file, "r") as opened:
        return {f"{m}/{kind}" for m, group in opened.get("sites", {}).items() for kind in group}


def numbers(file: Path, name: str) -> np.ndarray[Any, Any]:
    """Read a site as any h5py user would; bfloat16 comes as float32."""
    with h5py.File(file, "r") as opened:
        values: np.ndarray[Any, Any] = opened[f"sites/{name}"][:]
        return values


def bits(shard: Path, name: str) -> bytes:
    """Read the bytes of a contiguous site straight from the shard's file."""
    with h5py.File(shard, "r") as opened:
        dataset = opened[f"sites/{name}"]
        offset, size = dataset.id.get_offset(), dataset.id.get_storage_size()
    with shard.open("rb") as raw:
        raw.seek(offset)
        return raw.read(size)


def shard_files(folder: Path) -> list[Path]:
    return sorted((folder / "shards").glob("[0-9]*.h5"))


def bits_of(folder: Path, name: str) -> bytes:
    """Join a site's bytes over all shards."""
    return b"".join(bits(shard, name) for shard in shard_files(folder))


def tensor_bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else b""


def everything(file: Path) -> dict[str, Any]:
    """Read every dataset (as bytes, its dtype and shape) and every attribute of a file."""
    found: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:
        for key, value in node.attrs.items():
            if key not in ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST"):
                found[f"{name}@{key}"] = json.dumps(np.asarray(value).tolist())
        if isinstance(node, h5py.Dataset):
            found[f"{name}@dims"] = [[scale.name for scale in dim.values()] for dim in node.dims]
            values = node[:]
            raw = values.tolist() if values.dtype.hasobject else values.tobytes()
            found[name] = (str(node.dtype), node.shape, raw)

    with h5py.File(file, "r") as opened:
        visit("", opened)
        opened.visititems(visit)
    return found


def fingerprint(file: Path) -> tuple[int, int, bytes]:
    """Identify a file as it lies there: inode, time of the last change, bytes."""
    stat = file.stat()
    return stat.st_ino, stat.st_mtime_ns, file.read_bytes()
