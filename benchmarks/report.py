"""Reports: how large they are, and how soon they show in a browser.

Two of the sample model's patterns, on 8 and on 3 000 texts of 64 tokens of its own world, and one
of 32 layers x 32 heads x 512 tokens. The attention of the last is synthetic, written through the
project's own writer: each head is a softmax over a first token that draws attention, near tokens,
and noise, in proportions of its own. Chromium opens a page anew each time; `make browser` installs
what drives it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import probekit
from probekit.report import write_report
from probekit.samples.world import documents
from probekit.store.format.schema import ShardSpec, SiteSpec
from probekit.store.writing.index import build_index
from probekit.store.writing.layout import ShardTables
from probekit.store.writing.writer import ShardWriter
from probekit.trace import open_trace

Array = np.ndarray[Any, Any]

PAINT = Path(__file__).parents[1] / "tests" / "report" / "browser" / "paint.mjs"
D_MODEL = 256
TARGET_MS = 2000
SAMPLES = {8: 300e3, 3000: 6e6}  # examples of the sample model: bytes that the page may take
SAMPLE_TARGET_MS = 1000  # until its first head is drawn
N_TOKENS = 64


def patterns(draw: np.random.Generator, n_heads: int, n_tokens: int) -> Array:
    """Draw attention of one layer, float16 `[token, head, key]`."""
    distance = np.arange(n_tokens)[:, None] - np.arange(n_tokens)
    heads = []
    for sink, near, reach, noise in draw.uniform((0, 0, 1, 1), (8, 6, 20, 3), (n_heads, 4)):
        scores = draw.normal(0, noise, (n_tokens, n_tokens))
        scores += near * np.exp(-np.abs(distance - 1) / reach)
        scores[:, 0] += sink
        scores[distance < 0] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True))
    return np.stack(heads, axis=1).astype(np.float16)


def site(layer: int, kind: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> SiteSpec:
    attention = kind == "pattern"
    dtype = "float16" if attention else "float32"
    return SiteSpec(
        module=f"model.layers.{layer}{'.self_attn' if attention else ''}",
        kind=kind,
        rows="all",
        axes=axes,
        row_shape=shape,
        dtype=dtype,
        source_dtype=dtype,
        layer=layer,
        portable="pattern" if attention else "resid_post",
        module_class="Synthetic",
        probe=0,
    )


def write_trace(folder: Path, n_layers: int, n_heads: int, n_tokens: int) -> None:
    """Write a trace of one example with attention and a residual stream."""
    draw = np.random.default_rng(0)
    sites = []
    for layer in range(n_layers):
        sites.append(site(layer, "pattern", ("token", "head", "key"), (n_heads, n_tokens)))
        sites.append(site(layer, "output", ("token", "d_model"), (D_MODEL,)))
    shard = ShardSpec(
        number=0,
        first_example=0,
        n_examples=1,
        first_token=0,
        n_tokens=n_tokens,
        n_rows={"all": n_tokens},
    )
    vocabulary = [f" word{n}" for n in range(1000)]
    ids = draw.integers(0, len(vocabulary), n_tokens).astype(np.int32)
    tables = ShardTables.of_texts(
        ids=("0",),
        texts=("".join(vocabulary[i] for i in ids),),
        n_tokens=np.array([n_tokens]),
        token_ids=ids,
        choices={},
        counts={"all": np.array([n_tokens])},
    )
    attributes = {
        "probekit_format": 1,
        "model_name": f"synthetic, {n_layers} x {n_heads} x {n_tokens}",
        "n_layers": n_layers,
        "n_heads": n_heads,
    }
    with ShardWriter(folder, shard, sites, tables, attributes) as out:
        for number, spec in enumerate(sites):
            if spec.kind == "pattern":
                rows = patterns(draw, n_heads, n_tokens)
            else:
                rows = draw.lognormal(spec.layer or 0, 0.3, (n_tokens, D_MODEL)).astype(np.float32)
            out.write(number, rows, [0], [0])
        out.seal()
    build_index(folder, [shard], sites, attributes, vocabulary)


def visits(report: Path, chromium: str, times: int) -> list[dict[str, float]]:
    """Open a report in fresh browsers and say when it showed what."""
    command = ["node", str(PAINT), chromium, str(report), str(times)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def sample_trace(folder: Path, n_examples: int) -> None:
    """Record the sample model's patterns on texts of its own world, cut to one length."""
    sentences = documents(1, 8 * n_examples)
    texts = [" ".join(next(sentences) for _ in range(8)) for _ in range(n_examples)]
    trace = probekit.run(
        {
            "model": {"name": "sample:tiny-gpt2"},
            "inputs": {"texts": texts, "max_tokens": N_TOKENS},
            "probes": [{"sites": "pattern"}],
            "store": {"path": str(folder)},
        }
    )
    assert len(trace.tokens) == n_examples * N_TOKENS


def measure(trace: Path, chromium: str, times: int) -> tuple[dict[str, float], list[float]]:
    """Write a trace's report and open it; give medians, and the first paint of each visit."""
    begin = time.perf_counter()
    written = write_report(open_trace(trace), trace.with_suffix(".html"))
    figures = {"written_s": time.perf_counter() - begin, "file_mb": written.n_bytes / 1e6}
    seen = visits(written.path, chromium, times)
    figures |= {key: statistics.median(one[key] for one in seen) for key in seen[0]}
    for left in written.left_out:
        print(f"left out: {left}")
    return figures, [one["first_paint_ms"] for one in seen]


def show(figures: dict[str, float]) -> None:
    for key, value in figures.items():
        print(f"{key:<18} {value:>10.3f}" if key == "file_mb" else f"{key:<18} {value:>10.1f}")


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three visits instead of seven")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--keep", type=Path, help="keep the trace and the report in this folder")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or not (PAINT.parent / "node_modules").exists():
        raise SystemExit("needs node and chromium: run `make browser`")
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        all_figures: dict[str, dict[str, float]] = {}
        times = 3 if given.quick else 7
        for n_examples, most in SAMPLES.items():
            name = f"sample-{n_examples}"
            if not (folder / name / "trace.h5").exists():
                sample_trace(folder / name, n_examples)
            print(f"the sample model, {n_examples:,} examples of {N_TOKENS} tokens")
            all_figures[name], _ = measure(folder / name, chromium, times)
            show(all_figures[name])
            print(f"targets: {most / 1e6:g} MB, a head drawn within {SAMPLE_TARGET_MS} ms\n")
        if not (folder / "trace" / "trace.h5").exists():
            write_trace(folder / "trace", 32, 32, 512)
        print("synthetic attention, 32 layers x 32 heads x 512 tokens")
        all_figures["synthetic"], paints = measure(folder / "trace", chromium, times)
        show(all_figures["synthetic"])
        worst = max(paints)
    print(f"first paint of {len(paints)} visits: at most {worst:.0f} ms (target {TARGET_MS} ms)")
    if given.json is not None:
        given.json.write_text(json.dumps(all_figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
