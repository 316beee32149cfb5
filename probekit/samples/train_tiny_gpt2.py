"""Train the embedded sample model, `sample:tiny-gpt2`, on text of our own.

Knows how the tokenizer and the weights in `tiny-gpt2/` came to be: run
`python -m probekit.samples.train_tiny_gpt2` to make them again. Nothing in probekit imports it.
Its induction circuit is laid out by hand before training and then trained with the rest; facts
and language are learned from random weights.
The same seed gives the same text and tokenizer anywhere; the weights agree only up to the
floating-point habits of the machine and the torch release.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from probekit.samples import world

TRAIN_SEED = 1
HELD_OUT_SEED = 2
END_OF_TEXT = "<|endoftext|>"
N_TRAIN_DOCUMENTS = 40_000
N_HELD_OUT_DOCUMENTS = 300
D_VOCAB_MOST = 2048
D_MODEL = 128
N_LAYERS = 2
N_HEADS = 4
D_HEAD = D_MODEL // N_HEADS
N_CONTEXT = 256
TEXT_ROWS = 8
# Text alone teaches induction over the world's words only; rows of random tokens teach it for all.
REPEATED_TOKENS = 1536
REPEATED_LENGTHS = (64, 128)
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 50
INITIAL_SPREAD = 0.06  # GPT-2's 0.02 belongs to wider models
MATCH_GAIN, COPY_GAIN = 2.0, 1.0
# Frequencies, radians a token, of the first position embeddings; well apart from each other, so
# that their sum of cosines has one sharp peak.
FREQUENCIES = torch.linspace(0.2, 2.9, D_HEAD // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Tokenized documents, each followed by the end-of-text token."""

    ids: torch.Tensor  # [n_tokens], int64
    starts: torch.Tensor  # [n_documents], where each document's first token stands in ids


def train_tokenizer(texts: Iterator[str]) -> GPT2Tokenizer:
    """Learn a byte-level BPE which, like GPT-2's, adds no special token to a prompt."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=D_VOCAB_MOST,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    learned = json.loads(bpe.to_str())["model"]
    # transformers says list[str], and hands them to a model that takes pairs.
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    return GPT2Tokenizer(
        vocab=learned["vocab"],
        merges=merges,
        pad_token=END_OF_TEXT,
        model_max_length=N_CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def tokenize(tokenizer: GPT2Tokenizer, texts: list[str]) -> Corpus:
    """Join the documents' tokens in one line, with the end-of-text token after each."""
    rows = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts, verbose=False)["input_ids"]]
    lengths = torch.tensor([len(row) for row in rows])
    return Corpus(
        ids=torch.tensor([token for row in rows for token in row]),
        starts=lengths.cumsum(0) - lengths,
    )


def text_rows(corpus: Corpus, n_rows: int, random: torch.Generator) -> torch.Tensor:
    """Cut rows `[n_rows, N_CONTEXT]` out of the corpus.

    Most begin with a document's first token, since prompts stand at position 0 without a token
    before them; some begin with the end-of-text token, and some in the middle of a document.
    """
    picks = torch.randint(len(corpus.starts), (n_rows,), generator=random)
    kind = torch.rand(n_rows, generator=random)
    within = torch.randint(64, (n_rows,), generator=random)
    offset = torch.where(kind < 0.7, 0, torch.where(kind < 0.85, -1, within))
    first = (corpus.starts[picks] + offset).clamp(0, len(corpus.ids) - N_CONTEXT)
    return corpus.ids[first[:, None] + torch.arange(N_CONTEXT)]


def repeated_rows(d_vocab: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw rows of random tokens, each a segment said again until the row is full.

    Returns:
        Tokens and labels, both `[row, length]` of REPEATED_TOKENS in all. The labels of the first
        round are -100 (no loss), for nothing can be learned from them.
    """
    length = REPEATED_LENGTHS[int(torch.randint(len(REPEATED_LENGTHS), (1,), generator=random))]
    n_rows = REPEATED_TOKENS // length
    segments = torch.randint(d_vocab, (n_rows, length), generator=random)
    lengths = torch.randint(6, length // 2, (n_rows, 1), generator=random)
    position = torch.arange(length)
    tokens = segments.gather(1, position % lengths)
    # Where the second round begins cannot be foreseen either: its first token has no loss.
    return tokens, tokens.masked_fill(position <= lengths, -100)


def new_model(d_vocab: int, end_of_text_id: int) -> GPT2LMHeadModel:
    """Build the untrained model; as for GPT-2, its config names no padding token."""
    config = GPT2Config(
        vocab_size=d_vocab,
        n_positions=N_CONTEXT,
        n_embd=D_MODEL,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        initializer_range=INITIAL_SPREAD,
        bos_token_id=end_of_text_id,
        eos_token_id=end_of_text_id,
    )
    model = GPT2LMHeadModel(config)
    lay_out_an_induction_circuit(model)
    model.generation_config.pad_token_id = end_of_text_id
    return model


@torch.no_grad()
def lay_out_an_induction_circuit(model: GPT2LMHeadModel) -> None:
    """Begin with two heads that can find each other; training uses them, and may change them.

    An induction head looks for the place whose previous token is the current one, which it reads
    from what a previous-token head has written (https://arxiv.org/abs/2209.11895, section 2). To
    find both halves at once takes a model of this size many thousand steps. So head 0 of layer 0
    starts by looking one token back (positions are written as sines and cosines, and its queries
    turn them by one token), and head 0 of layer 1 by comparing its own token with what that head
    has written, and by copying a share of the token it finds. All other heads, all neurons and
    the token embeddings start at random. Untrained, the second head already scores about 0.5 in
    `induction_scores`: what training adds is the rest.
    """
    n = len(FREQUENCIES)
    cosine, sine, place = torch.cos(FREQUENCIES), torch.sin(FREQUENCIES), torch.arange(n)
    angles = torch.arange(N_CONTEXT)[:, None] * FREQUENCIES
    positions: Any = model.transformer.wpe.weight
    positions.zero_()
    positions[:, :n], positions[:, n : 2 * n] = 0.15 * torch.cos(angles), 0.15 * torch.sin(angles)

    blocks: Any = model.transformer.h
    for block in blocks:  # what is random whispers at first, or it would drown them
        block.attn.c_proj.weight.mul_(0.1)
        block.mlp.c_proj.weight.mul_(0.1)
    first: Any = blocks[0].attn
    query, key, value = _head_0(first)
    query.zero_()
    key.zero_()
    query[place, place], query[n + place, place] = 1.4 * cosine, 1.4 * sine
    query[n + place, n + place], query[place, n + place] = 1.4 * cosine, -1.4 * sine
    key[place, place] = key[n + place, n + place] = torch.tensor(1.4)
    spread = 0.03  # of what the head writes: as large as the embeddings it is added to
    value.normal_(std=D_MODEL**-0.5)
    value[: 2 * n] = 0  # what it passes on is the token, not where it stood
    written = first.c_proj.weight[:D_HEAD].normal_(std=spread)

    second: Any = blocks[1].attn
    query, key, copied = _head_0(second)
    query.copy_(MATCH_GAIN * value)
    key.copy_(MATCH_GAIN * written.T / (spread**2 * D_MODEL))
    directions = torch.linalg.qr(torch.randn(D_MODEL, D_HEAD)).Q
    copied.copy_(directions)
    second.c_proj.weight[:D_HEAD] = COPY_GAIN * directions.T


def _head_0(attention: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give the query, key and value weights of a layer's first head, `[d_model, d_head]` each."""
    weight = attention.c_attn.weight  # [d_model, query | key | value]
    query, key, value = (weight[:, part * D_MODEL :][:, :D_HEAD] for part in range(3))
    return query, key, value


def new_optimizer(model: GPT2LMHeadModel) -> torch.optim.AdamW:
    """Decay matrices only: biases and layer norms hold no capacity worth shrinking."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98))


def next_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy, nats a token: logits `[row, token, d_vocab]`, labels ids."""
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def learning_rate_share(step: int, n_steps: int) -> float:
    """Climb linearly to 1, then fall along a cosine to 0."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / max(1, n_steps - WARMUP_STEPS)))


def train(model: GPT2LMHeadModel, corpus: Corpus, n_steps: int, seed: int) -> None:
    """Train in place, printing the loss now and then."""
    random = torch.Generator().manual_seed(seed)
    optimizer = new_optimizer(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, n_steps)
    )
    began = time.perf_counter()
    for step in range(n_steps):
        text = text_rows(corpus, TEXT_ROWS, random)
        loss = next_token_loss(model(text).logits, text)
        tokens, labels = repeated_rows(model.config.vocab_size, random)
        repeated_loss = next_token_loss(model(tokens).logits, labels)
        (loss + repeated_loss).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == n_steps - 1:
            seconds = time.perf_counter() - began
            score = induction_scores(model).max()
            print(
                f"step {step:5d}  text {loss:.3f}  repeated {repeated_loss:.3f}  "
                f"induction {score:.2f}  {seconds:.0f} s",
                flush=True,
            )


@torch.no_grad()
def capital_accuracy(model: GPT2LMHeadModel, tokenizer: GPT2Tokenizer) -> float:
    """Return the share of countries whose capital is the greedy next token."""
    right = 0
    for country in world.COUNTRIES:
        prompt = tokenizer(f"The capital of {country.name} is", return_tensors="pt")
        best = model(**prompt).logits[0, -1].argmax()
        right += tokenizer.decode(best) == f" {country.capital}"
    return right / len(world.COUNTRIES)


@torch.no_grad()
def text_loss(model: GPT2LMHeadModel, tokenizer: GPT2Tokenizer, texts: list[str]) -> float:
    """Return the mean cross entropy, nats a token, over documents that each begin at position 0."""
    total, n_targets = 0.0, 0
    for text in texts:
        ids = tokenizer(text, verbose=False, return_tensors="pt")["input_ids"][:, :N_CONTEXT]
        n = ids.shape[1] - 1
        total += n * next_token_loss(model(ids).logits, ids).item()
        n_targets += n
    return total / n_targets


def unigram_loss(tokenizer: GPT2Tokenizer, corpus: Corpus, texts: list[str]) -> float:
    """Return the cross entropy, nats a token, of add-one smoothed token counts of the corpus."""
    d_vocab = len(tokenizer)
    counts = torch.bincount(corpus.ids, minlength=d_vocab).double() + 1
    log_share = (counts / counts.sum()).log()
    # A document's first token has no prediction in text_loss, so it counts in neither.
    targets = [
        token for ids in tokenizer(texts, verbose=False)["input_ids"] for token in ids[1:N_CONTEXT]
    ]
    return -log_share[torch.tensor(targets)].mean().item()


@torch.no_grad()
def induction_scores(model: GPT2LMHeadModel, n_segment: int = 50, n_rows: int = 8) -> torch.Tensor:
    """Measure how far each head looks at the token after the current token's last occurrence.

    Returns:
        `[layer, head]`: on random tokens said twice, the mean attention from the second round's
        positions to `position - n_segment + 1`.
    """
    random = torch.Generator().manual_seed(0)
    segment = torch.randint(model.config.vocab_size, (n_rows, n_segment), generator=random)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # sdpa returns no attention pattern
    patterns = model(torch.cat([segment, segment], dim=1), output_attentions=True).attentions
    model.set_attn_implementation(before)
    query = torch.arange(n_segment, 2 * n_segment)
    picked = [pattern[:, :, query, query - n_segment + 1] for pattern in patterns]
    return torch.stack(picked).mean(dim=(1, 3))


def report(model: GPT2LMHeadModel, tokenizer: GPT2Tokenizer, corpus: Corpus) -> None:
    """Print what the sample model can do, and how large it is."""
    held_out = list(world.documents(HELD_OUT_SEED, N_HELD_OUT_DOCUMENTS))
    scores = induction_scores(model)
    layer, head = divmod(int(scores.argmax()), scores.shape[1])
    print(f"parameters         {model.num_parameters():,} ({len(tokenizer)} tokens)")
    print(f"capitals           {capital_accuracy(model, tokenizer):.0%} right")
    print(f"held-out loss      {text_loss(model, tokenizer, held_out):.3f} nats a token")
    print(f"unigram baseline   {unigram_loss(tokenizer, corpus, held_out):.3f} nats a token")
    print(f"induction          {scores.max():.3f} at layer {layer}, head {head}")
    print(f"all heads          {[[round(s, 2) for s in row] for row in scores.tolist()]}")


def main() -> None:
    """Train, save and measure."""
    parser = argparse.ArgumentParser(description="Train the embedded sample model.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny-gpt2")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    texts = list(world.documents(TRAIN_SEED, N_TRAIN_DOCUMENTS))
    tokenizer = train_tokenizer(iter(texts))
    corpus = tokenize(tokenizer, texts)
    print(f"{len(corpus.ids):,} tokens, {len(tokenizer)} different", flush=True)
    model = new_model(len(tokenizer), tokenizer.eos_token_id)
    train(model, corpus, options.steps, options.seed)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    # safetensors writes for the owner only; a wheel keeps the mode, and others must read it.
    (options.out / "model.safetensors").chmod(0o644)
    report(model, tokenizer, corpus)


if __name__ == "__main__":
    main()
