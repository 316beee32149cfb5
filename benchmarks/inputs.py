"""What a million examples take before the model runs: read, tokenized, sealed.

Texts of about eight words from a .jsonl file: alone, with three columns, as the token ids that the
tokenizer gives for them, which need no encoding but are read back as text, and as chats of four
such messages, which a process of its own renders thrice to find where contents stand; as a stream
that `datasets` reads, ten thousand and a million of them, whose memory is compared; and as one
document of megabytes that is split. Each in a process of its own, so that the processor's time is
all of it; what is counted begins behind imports (but those of chats and of `datasets`) and ends
with a sealed `inputs.h5`. Beside it stands the tokenizer alone, called with a thousand texts at a
time.

    python benchmarks/inputs.py [--quick] [--only WORD] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from probekit.models import locate
from probekit.samples.world import WORDS
from probekit.store import SealedInputs

_CHILD = """
import json, resource, sys, time
from pathlib import Path
from transformers import AutoTokenizer
from probekit.config import load_config
from probekit.inputs import Chats, Codec, Limits, Origin, SpecialTokens, Splitting
from probekit.inputs import decoding, read_inputs, tokenizing
from probekit.models import locate
from probekit.store import discard_partial

def processor():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime

tokenizer = AutoTokenizer.from_pretrained(locate("sample:tiny-gpt2", "model.name").place)
given, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
if given is None:
    lines = Path(sys.argv[3]).read_text().splitlines()
    begin = processor(), time.perf_counter()
    for first in range(0, len(lines), 1000):
        texts = [json.loads(line)["text"] for line in lines[first : first + 1000]]
        tokenizer(texts, return_attention_mask=False, return_offsets_mapping=True)
else:
    config = load_config(given)
    limits = Limits(n_tokens=1024, d_vocab=len(tokenizer), too_long="truncate")
    origin = Origin(config=config, limits=limits, tokenizer="one")
    codec = Codec(encode=tokenizing.encoder(tokenizer, 1024), decode=decoding.decoder(tokenizer))
    if config.inputs.too_long == "split":
        splitting = Splitting(n_tokens=256, stride=config.inputs.stride or 0)
        codec = Codec(encode=tokenizing.document_encoder(tokenizer), splitting=splitting)
    if config.inputs.messages is not None:
        plain = tokenizing.encoder(tokenizer, 1024, SpecialTokens(tokenizer, "none"))
        codec = Codec(chats=Chats(config, tokenizer, plain))
    if config.inputs.dataset is not None:
        import datasets
        datasets.disable_progress_bars()
    begin = processor(), time.perf_counter()
    examples, _ = read_inputs(origin, codec, sealed_in=None)
    examples.sealed(origin.digests).seal(folder)
    discard_partial(folder)
end = processor(), time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([end[0] - begin[0], end[1] - begin[1], peak * 1024]))
"""


_ROLES = ("system", "user", "assistant", "user")
_TEMPLATE = Path(__file__).parents[1] / "configs" / "phi3-chat.jinja"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one form of the inputs takes."""

    form: str
    n_examples: int
    n_tokens: int  # of all of them
    processor_s: float  # of all examples, the median
    wall_s: float
    peak_bytes: float  # of memory, of the process and all that it has loaded
    token_bytes: float | None  # of `inputs.h5`, its texts, ids and columns included


def write_rows(path: Path, n: int) -> int:
    """Write rows with a text, its token ids and three columns; give the tokens of all."""
    tokenizer = AutoTokenizer.from_pretrained(locate("sample:tiny-gpt2", "model.name").place)
    draw, n_tokens = random.Random(0), 0
    with path.open("w") as file:
        for first in range(0, n, 1000):
            texts = [" ".join(draw.choices(WORDS, k=draw.randint(4, 12))) for _ in range(1000)]
            for number, ids in enumerate(tokenizer(texts)["input_ids"]):
                more = {"label": number % 2, "score": number / 7, "subject": WORDS[number % 50]}
                said = [texts[number], *draw.sample(texts, 3)]
                chat = [
                    {"role": role, "content": content}
                    for role, content in zip(_ROLES, said, strict=True)
                ]
                row = {"text": texts[number], "ids": ids, **more, "number": first + number}
                row["chat"] = chat
                file.write(json.dumps(row) + "\n")
                n_tokens += len(ids)
    return n_tokens


def write_texts(path: Path, n: int, n_words: int = 8) -> None:
    """Write texts alone, of so many words each."""
    draw = random.Random(0)
    with path.open("w") as file:
        for _ in range(n):
            file.write(json.dumps({"text": " ".join(draw.choices(WORDS, k=n_words))}) + "\n")


def streamed(path: Path) -> dict[str, Any]:
    """Give inputs that `datasets` reads as they come."""
    return {"dataset": {"name": "json", "data_files": str(path), "streaming": True}}


def seconds(given: dict[str, Any] | None, folder: Path, rows: Path) -> list[float]:
    """Read inputs once, in a process of its own; give the processor's seconds and the wall's."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(given), str(folder), str(rows)],
        check=True,
        capture_output=True,
        text=True,
    )
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="20 000 examples, once each")
    parser.add_argument("--only", default="", help="forms that have this in their name")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    n_examples, times = (20_000, 1) if options.quick else (200_000, 3)
    results = []
    with tempfile.TemporaryDirectory(prefix="inputs-") as scratch:
        rows = Path(scratch) / "rows.jsonl"
        n_tokens = write_rows(rows, n_examples)
        few, many = Path(scratch) / "few.jsonl", Path(scratch) / "many.jsonl"
        book, n_many = Path(scratch) / "book.jsonl", 20_000 if options.quick else 1_000_000
        n_words = 200_000 if options.quick else 2_000_000
        write_texts(few, 10_000)
        write_texts(many, n_many)
        write_texts(book, 1, n_words)
        file = {"file": str(rows)}
        forms: dict[str, tuple[int, dict[str, Any] | None]] = {
            "the tokenizer alone": (n_examples, None),
            "texts": (n_examples, file),
            "texts with three columns": (
                n_examples,
                {**file, "columns": ["label", "score", "subject"]},
            ),
            "token ids": (n_examples, {**file, "tokens": "ids"}),
            "chats of four messages": (
                n_examples,
                {**file, "messages": "chat", "chat_template": str(_TEMPLATE)},
            ),
            "a stream": (10_000, streamed(few)),
            "a longer stream": (n_many, streamed(many)),
            "one long document": (1, {"file": str(book), "too_long": "split", "stride": 16}),
        }
        for number, (form, (n, inputs)) in enumerate(forms.items()):
            if options.only not in form:
                continue
            folder = Path(scratch) / str(number)
            given = (
                None
                if inputs is None
                else {
                    "model": {"name": "sample:tiny-gpt2"},
                    "inputs": inputs,
                    "probes": [{"sites": "resid_post"}],
                    "store": {"path": str(folder)},
                }
            )
            n_times = 1 if n > n_examples else times  # a million rows take minutes
            taken = [seconds(given, folder, rows) for _ in range(n_times)]
            sealed = SealedInputs.read(folder)  # of the tokenizer alone there is none
            own_tokens = n_tokens if sealed is None else len(sealed.tokens.values)
            n_bytes = 0 if sealed is None else (folder / "inputs.h5").stat().st_size
            results.append(
                Taken(
                    form=form,
                    n_examples=n,
                    n_tokens=own_tokens,
                    processor_s=statistics.median(one[0] for one in taken),
                    wall_s=statistics.median(one[1] for one in taken),
                    peak_bytes=max(one[2] for one in taken),
                    token_bytes=None if sealed is None else n_bytes / own_tokens,
                )
            )
    print(f"{'form':<26} {'examples':>10} {'processor':>10} {'wall':>9} {'a million':>10}", end="")
    print(f" {'tokens':>11} {'bytes a token':>14} {'peak MiB':>9}")
    for one in results:
        size = "" if one.token_bytes is None else f"{one.token_bytes:.1f}"
        million_s = one.processor_s * 1e6 / one.n_examples if one.n_examples > 1 else 0.0
        taken_s = f"{one.processor_s:>9.1f}s {one.wall_s:>8.1f}s {million_s:>9.1f}s"
        peak = f"{one.peak_bytes / 2**20:>9.0f}"
        print(
            f"{one.form:<26} {one.n_examples:>10,} {taken_s} {one.n_tokens:>11,} {size:>14} {peak}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(one) for one in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
