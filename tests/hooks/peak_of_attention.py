"""Print the peak memory, in KiB, of one forward pass at 2 048 tokens: bare, tapped or eager."""

import sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from probekit.hooks import attention
from probekit.models.forward import AttentionTap

how = sys.argv[1]
torch.manual_seed(0)
torch.set_num_threads(1)
shape = GPT2Config(n_layer=1, n_embd=192, n_head=12, vocab_size=64, n_positions=2048)
model = GPT2LMHeadModel._from_config(
    shape, attn_implementation="eager" if how == "eager" else "sdpa"
).eval()
ids = torch.zeros((1, 2048), dtype=torch.long)
kept = []


def two_heads(call):
    queries = torch.arange(2048)
    asked = {"example": 0, "heads": (0, 7), "queries": queries, "n_keys": 2048}
    for block in attention.blocks(call, "pattern", **asked):
        kept.append(block.half().sum())  # handed on, as to a file


with torch.inference_mode():
    if how == "tap":
        with AttentionTap(model, {"transformer.h.0.attn": two_heads}):
            model(ids)
    else:
        model(ids, output_attentions=how == "eager")
# Not getrusage: a process begins with the peak of the one that started it.
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
