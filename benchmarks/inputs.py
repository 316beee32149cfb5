"""What a million examples take before the model runs: read, tokenized, sealed.

Texts of about eight words from a .jsonl file: alone, with three columns, as the token ids that the
tokenizer gives for them, which need no encoding but are read back as text, and as chats of four
such messages, which a process of its own renders thrice to find where contents stand. Each in a
process of its own, so that the processor's time is all of it; what is counted begins behind imports
(but that of chats) and ends with a sealed `inputs.h5`. Beside it stands the tokenizer alone, called
with a thousand texts at a time.

    python benchmarks/inputs.py [--quick] [--json FILE]
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
from probekit.inputs import Chats, Codec, Limits, Origin, SpecialTokens
from probekit.inputs import decoding, read_inputs, tokenizing
from probekit.models import locate

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
    if config.inputs.messages is not None:
        plain = tokenizing.encoder(tokenizer, 1024, SpecialTokens(tokenizer, "none"))
        codec = Codec(chats=Chats(config, tokenizer, plain))
    begin = processor(), time.perf_counter()
    examples, _ = read_inputs(origin, codec, sealed_in=None)
    examples.sealed(origin.digests).seal(folder)
end = processor(), time.perf_counter()
print(json.dumps([end[0] - begin[0], end[1] - begin[1]]))
"""


_ROLES = ("system", "user", "assistant", "user")
_TEMPLATE = Path(__file__).parents[1] / "configs" / "phi3-chat.jinja"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one form of the inputs takes."""

    form: str
    n_examples: int
    n_tokens: int  # of all of them
    processor_s: float  # a million examples, the median
    wall_s: float
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
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    n_examples, times = (20_000, 1) if options.quick else (200_000, 3)
    results = []
    with tempfile.TemporaryDirectory(prefix="inputs-") as scratch:
        rows = Path(scratch) / "rows.jsonl"
        n_tokens = write_rows(rows, n_examples)
        forms: dict[str, dict[str, Any] | None] = {
            "the tokenizer alone": None,
            "texts": {},
            "texts with three columns": {"columns": ["label", "score", "subject"]},
            "token ids": {"tokens": "ids"},
            "chats of four messages": {"messages": "chat", "chat_template": str(_TEMPLATE)},
        }
        for number, (form, inputs) in enumerate(forms.items()):
            folder = Path(scratch) / str(number)
            given = (
                None
                if inputs is None
                else {
                    "model": {"name": "sample:tiny-gpt2"},
                    "inputs": {"file": str(rows), **inputs},
                    "probes": [{"sites": "resid_post"}],
                    "store": {"path": str(folder)},
                }
            )
            taken = [seconds(given, folder, rows) for _ in range(times)]
            sealed = SealedInputs.read(folder)  # of the tokenizer alone there is none
            own_tokens = n_tokens if sealed is None else len(sealed.tokens.values)
            n_bytes = 0 if sealed is None else (folder / "inputs.h5").stat().st_size
            results.append(
                Taken(
                    form=form,
                    n_examples=n_examples,
                    n_tokens=own_tokens,
                    processor_s=statistics.median(one[0] for one in taken) * 1e6 / n_examples,
                    wall_s=statistics.median(one[1] for one in taken) * 1e6 / n_examples,
                    token_bytes=None if sealed is None else n_bytes / own_tokens,
                )
            )
    print(f"{n_examples:,} examples; seconds are of a million examples")
    print(f"{'form':<26} {'processor':>10} {'wall':>9} {'tokens':>11} {'bytes a token':>14}")
    for one in results:
        size = "" if one.token_bytes is None else f"{one.token_bytes:.1f}"
        taken_s = f"{one.processor_s:>9.1f}s {one.wall_s:>8.1f}s"
        print(f"{one.form:<26} {taken_s} {one.n_tokens:>11,} {size:>14}")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(one) for one in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
