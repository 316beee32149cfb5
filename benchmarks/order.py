"""Execution order recorded on every module, against the bare model: distilgpt2's shape, float32.

Recording is `probekit.hooks.OrderRecorder`, attached and detached within the timing, and one entry
filed a forward pass, as a run does. Beside it stands the floor of anything that listens through
torch's hooks: two hooks on every module that do nothing. Once with one thread by the processor time
of that thread, which holds on a machine that others use; once (not with --quick) with all threads
by the clock on the wall, where the forward pass is shorter and the hooks are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from pairs import Comparison, compare, options, report
from transformers import AutoModelForCausalLM, DynamicCache, GPT2Config

from probekit.hooks.executionorder import OrderRecorder

N_PROMPT = 64
End = Callable[[], None]  # told at the end of each forward pass
Passes = Callable[[End], None]  # some forward passes
Listening = Callable[[torch.nn.Module], AbstractContextManager[End]]


def nothing() -> None:
    """Do nothing."""


@contextmanager
def empty_hooks(model: torch.nn.Module) -> Iterator[End]:
    """Hang two hooks that do nothing on every module below a model."""
    with ExitStack() as stack:
        for path, module in model.named_modules():
            if path:
                stack.callback(module.register_forward_pre_hook(lambda module, args: None).remove)
                stack.callback(module.register_forward_hook(lambda module, args, out: None).remove)
        yield nothing


@contextmanager
def recorded(model: torch.nn.Module) -> Iterator[End]:
    """Record the execution order, and check that all of it was seen."""
    with OrderRecorder(model) as order:
        yield lambda: order.end_forward(phase="forward", examples=(0,), n_tokens=1, seconds=0.0)
        execution = order.take()
        ran = {execution.modules[m] for m, _, _ in execution.orders[0].tolist()}
        assert len(execution.orders) == 1 and {"lm_head", "transformer.h.5.mlp.act"} <= ran


def main() -> None:
    """Measure, print, and write JSON if asked."""
    given = options(__doc__)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(GPT2Config(n_layer=6)).eval()
    assert sum(p.numel() for p in model.parameters()) == 81_912_576  # distilgpt2's
    n_rows, n_steps, n_pairs = (2, 16, (2, 2)) if given.quick else (8, 32, (9, 21))
    batch = torch.randint(model.config.vocab_size, (n_rows, 128))
    cache = DynamicCache(config=model.config)

    def long_batch(end: End) -> None:
        model(input_ids=batch, use_cache=False)
        end()

    def decoding(end: End) -> None:
        for step in range(n_steps):
            model(input_ids=batch[:1, step : step + 1], past_key_values=cache, use_cache=True)
            end()
        cache.crop(-n_steps)

    def time_it(name: str, passes: Passes, target: str, **options: Any) -> Iterator[Comparison]:
        for what, listening, aim in (("order", recorded, target), ("empty hooks", empty_hooks, "")):

            def listened(listening: Listening = listening) -> None:
                with listening(model) as end:
                    passes(end)

            measure = f"{name}, {torch.get_num_threads()} threads: {what}"
            yield compare(measure, listened, lambda: passes(nothing), target=aim, **options)

    results = []
    clocks = [(1, time.thread_time)]
    if not given.quick:
        clocks.append((torch.get_num_threads(), time.perf_counter))
    with torch.inference_mode():
        model(input_ids=batch[:1, :N_PROMPT], past_key_values=cache, use_cache=True)
        for n_threads, clock in clocks:
            torch.set_num_threads(n_threads)
            for (name, passes, target), n in zip(
                (
                    (f"{batch.numel()}-token batch", long_batch, "<= 1.02"),
                    ("one-token decoding", decoding, "<= 1.10"),
                ),
                n_pairs,
                strict=True,
            ):
                results += time_it(name, passes, target, n_pairs=n, clock=clock)
    report(results, given.json)


if __name__ == "__main__":
    main()
