"""Models that a user has in memory, what they were like, and a config that names none."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import by_hand
import tiny_models as tiny
import torch
from by_hand import EXAMPLES
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedTokenizerFast
from transformers.modeling_utils import AttentionInterface

import probekit

OUTPUTS = [{"modules": "**"}]
MANY_SHARDS = {"store__shard_bytes": 1, "probes": [{"modules": "**.mlp"}]}
OPTIONS = ("digest", "overwrite", "repair", "self_check", "on_progress", "on_start")


class MineError(Exception):
    pass


def tokenizer(folder: Path, n_words: int = tiny.D_VOCAB) -> Any:
    """Make the tokenizer that reads "5 17 99" as 5, 17, 99."""
    return PreTrainedTokenizerFast.from_pretrained(by_hand.save_words(folder / "words", n_words))


def config(store: Path, probes: Any = OUTPUTS, **more: Any) -> dict[str, Any]:
    """Make a config over `EXAMPLES` that names no model; `store__shard_bytes=...` sets a key."""
    made = by_hand.config("none", store, probes=probes, **more)
    own = {key: value for key, value in made["model"].items() if f"model__{key}" in more}
    return {key: value for key, value in made.items() if key != "model"} | (
        {"model": own} if own else {}
    )


def run(folder: Path, model: Any, words: Any, **more: Any) -> probekit.Trace:
    """Run a model in memory; `more` is options of `run`, and keys of the config."""
    options = {key: more.pop(key) for key in list(more) if key in OPTIONS}
    return probekit.run(config(folder, **more), model=model, tokenizer=words, **options)


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in by_hand.shard_files(folder)}


def marks(model: nn.Module) -> dict[str, Any]:
    """Look at everything that a run could leave changed, by object and by value."""
    modules = list(model.named_modules())
    return {
        "hooks": {
            f"{path}.{name}": list(kept.items())
            for path, module in modules
            for name, kept in vars(module).items()
            if name.endswith(("_hooks", "_hooks_with_kwargs")) and isinstance(kept, dict)
        },
        "attributes": {path: {k: id(v) for k, v in vars(m).items()} for path, m in modules},
        "modes": {path: module.training for path, module in modules},
        "tensors": {
            name: (id(t), t.requires_grad, t.is_inference(), str(t.device), t.dtype, t.tolist())
            for name, t in (*model.named_parameters(), *model.named_buffers())
        },
        "configs": [m.config.to_dict() for _, m in modules if hasattr(m, "config")],
        "kernels": dict(AttentionInterface._global_mapping),
        "torch": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "random": torch.get_rng_state().tolist(),
    }


def outputs_equal_hooks(folder: Path, seen: by_hand.Joined) -> int:
    """Compare what was stored of all outputs with hand-written hooks, bit for bit; count them."""
    names = [name for name in seen.layouts if "/output" in name]
    for name in names:
        assert by_hand.bits_of(folder, name) == by_hand.tensor_bits(seen(name)), name
    return len(names)


# --- models that no name names


class LoRALinear(nn.Module):
    """A linear map and what was learned beside it."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base, self.scaling = base, 2.0
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x)) * self.scaling


class Int8Linear(nn.Module):
    """A linear map whose weights are whole numbers, as quantizers leave them."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        scale = base.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("qweight", (base.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.qweight.to(x.dtype) * self.scale)


class Wrapper(nn.Module):
    """What wraps a model, and hands on whatever it is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inside = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inside(*args, **kwargs)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def replaced(model: nn.Module, ending: str, kind: Any) -> nn.Module:
    """Put another module in the place of each linear map whose path ends so."""
    torch.manual_seed(3)
    for path, module in list(model.named_modules()):
        if path.endswith(ending):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, kind(module))
    return model


def plain() -> nn.Module:
    return tiny.build("gpt2")


def tuned() -> nn.Module:
    model = tiny.build("llama")
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    model(**by_hand.pad(EXAMPLES), labels=by_hand.pad(EXAMPLES)["input_ids"]).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return model


def adapted() -> nn.Module:
    return Wrapper(replaced(tiny.build("llama"), "_proj", LoRALinear).requires_grad_(False))


def quantized() -> nn.Module:
    return replaced(tiny.build("llama"), "_proj", Int8Linear)


def packed() -> nn.Module:
    kinds, model = {nn.Linear}, tiny.build("llama")
    with warnings.catch_warnings(action="ignore"):
        return torch.ao.quantization.quantize_dynamic(model, kinds, dtype=torch.qint8)


def parametrized() -> nn.Module:
    model = tiny.build("llama")
    parametrize.register_parametrization(model.model.layers[1].mlp.up_proj, "weight", Doubled())
    return model


def steered() -> nn.Module:
    """A model with a hook of the user's, which changes what a block gives."""
    model = tiny.build("gpt2")
    model.transformer.h[1].register_forward_hook(lambda module, args, output: output + 1)
    return model


def patched() -> nn.Module:
    model = tiny.build("gpt2")
    right = model.transformer.h[0].mlp.forward
    model.transformer.h[0].mlp.forward = lambda x: right(x) * 2
    return model


def copied() -> nn.Module:
    return nn.DataParallel(tiny.build("gpt2"))


def headless() -> nn.Module:
    return tiny.build("llama").model


def checkpointed() -> nn.Module:
    model = tiny.build("llama")
    model.activation_checkpointing_enable()
    return model.train()


MODELS = {
    make.__name__: make
    for make in (
        *(plain, tuned, adapted, quantized, parametrized, steered, patched, copied),
        *(headless, checkpointed),
    )
}
