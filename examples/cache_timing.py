"""How much time the key-value cache saves: `generate` with it and without it, in turns.

The model has the shape of Phi-3-mini (`Phi3Config` of transformers: 32 heads of 96, an MLP of 8192,
a vocabulary of 32064) and seeded random weights: seconds do not depend on what weights say. Of its
32 layers only the first is built unless more are asked for, so that it fits a CPU. Every layer
costs the same; the output head, which looks at one position a pass either way, weighs more beside
one layer than beside 32, and makes the ratio smaller than that of the whole model.

Nothing listens: no hook is on the model while it is timed. Forward passes are counted before, in a
run of each kind that also warms up, and must be as many with the cache as without.

    python examples/cache_timing.py
    python examples/cache_timing.py --layers 32 --new-tokens 128 --device cuda --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import GenerationConfig, Phi3Config, Phi3ForCausalLM

SHAPE: Mapping[str, int] = {  # of microsoft/Phi-3-mini-4k-instruct, written out
    "vocab_size": 32_064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
}
WAYS = {True: "with_cache", False: "without_cache"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Seconds of one way, run by run."""

    seconds: tuple[float, ...]
    mean_s: float
    deviation_s: float  # of the sample: divided by n - 1

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timed:
        """Sum up some runs."""
        return cls(
            seconds=tuple(seconds),
            mean_s=statistics.mean(seconds),
            deviation_s=statistics.stdev(seconds) if len(seconds) > 1 else 0.0,
        )


def build(layers: int, device: str, dtype: torch.dtype, seed: int = 0) -> Phi3ForCausalLM:
    """Build the first layers of Phi-3-mini with random weights."""
    torch.manual_seed(seed)
    config = Phi3Config(
        **SHAPE, num_hidden_layers=layers, bos_token_id=1, eos_token_id=None, pad_token_id=0
    )
    return Phi3ForCausalLM(config).to(device, dtype).eval()


def generate(model: Any, ids: torch.Tensor, new_tokens: int, *, use_cache: bool) -> torch.Tensor:
    """Go on from a prompt by exactly so many tokens, the likeliest each time."""
    settings = GenerationConfig(
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        use_cache=use_cache,
        eos_token_id=None,
        pad_token_id=0,
    )
    mask = torch.ones_like(ids)
    made: torch.Tensor = model.generate(ids, attention_mask=mask, generation_config=settings)
    if ids.device.type == "cuda":
        torch.cuda.synchronize(ids.device)
    return made


def count_passes(model: Any, ids: torch.Tensor, new_tokens: int, *, use_cache: bool) -> int:
    """Count the forward passes of one run; the hook that counts is gone afterwards."""
    passes: list[int] = []
    handle = model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        generate(model, ids, new_tokens, use_cache=use_cache)
    finally:
        handle.remove()
    return len(passes)


def measure(model: Any, *, prompt_tokens: int, new_tokens: int, runs: int) -> dict[str, Any]:
    """Time `generate` with the cache and without, in turns, after a run of each.

    Raises:
        RuntimeError: if both ways do not make equally many forward passes.
    """
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, model.config.vocab_size, (1, prompt_tokens), generator=draw)
    ids = ids.to(model.device)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with torch.inference_mode():
        passes = {c: count_passes(model, ids, new_tokens, use_cache=c) for c in WAYS}
        if set(passes.values()) != {new_tokens}:
            raise RuntimeError(f"expected {new_tokens} passes each way, counted {passes}")
        for _ in range(runs):
            for cached in WAYS:
                begin = time.perf_counter()
                generate(model, ids, new_tokens, use_cache=cached)
                seconds[cached].append(time.perf_counter() - begin)
    timed = {name: Timed.of(seconds[cached]) for cached, name in WAYS.items()}
    return {
        "passes": new_tokens,
        "runs": runs,
        **{name: asdict(one) for name, one in timed.items()},
        "ratio": timed["without_cache"].mean_s / timed["with_cache"].mean_s,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    asked = _parser().parse_args(arguments)
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    model = build(asked.layers, asked.device, getattr(torch, asked.dtype))
    about = {
        "layers": asked.layers,
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "dtype": asked.dtype,
        "device": asked.device,
        "threads": torch.get_num_threads(),
        "prompt_tokens": asked.prompt_tokens,
        "new_tokens": asked.new_tokens,
    }
    found = measure(
        model,
        prompt_tokens=asked.prompt_tokens,
        new_tokens=asked.new_tokens,
        runs=asked.runs,
    )
    said = about | found
    print(json.dumps(said, indent=2) if asked.json else _table(said))


def _table(said: Mapping[str, Any]) -> str:
    lines = [
        f"Phi-3-mini's shape, {said['layers']} of 32 layers ({said['n_parameters']:,} parameters) "
        f"in {said['dtype']} on {said['device']}, threads: {said['threads']}",
        f"prompt of {said['prompt_tokens']} tokens, {said['new_tokens']} new ones in "
        f"{said['passes']} forward passes, {said['runs']} runs of each way in turns",
        "",
        f"{'':14}  {'mean':>8}  {'deviation':>9}  {'a token':>8}",
    ]
    for name in WAYS.values():
        one = said[name]
        each = one["mean_s"] / said["new_tokens"]
        lines.append(
            f"{name.replace('_', ' '):14}  {one['mean_s']:6.3f} s  {one['deviation_s']:7.3f} s  "
            f"{each:6.4f} s"
        )
    return "\n".join([*lines, "", f"without the cache it takes {said['ratio']:.2f} times as long"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=_count, default=1, help="of the 32 (1)")
    parser.add_argument("--prompt-tokens", type=_count, default=32, help="of the prompt (32)")
    parser.add_argument("--new-tokens", type=_count, default=16, help="to generate (16)")
    parser.add_argument("--runs", type=_count, default=7, help="of each way (7)")
    parser.add_argument("--threads", type=_count, help="of a CPU (as torch chooses)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (cpu)")
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="(float32)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    main()
