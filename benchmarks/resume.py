"""How soon a run of many short texts goes on, and what its sealed inputs take.

A run of 300 000 texts is carried out, its last shard and its index are removed, and the same
command goes on, in a process of its own: once from the inputs that the run has sealed, once from
the texts (`inputs.h5` removed, and `repair`, which writes it again), in turns. What counts is the
time beyond imports and beyond the shard itself, from its first batch to its seal.

    python benchmarks/resume.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from probekit.samples.world import WORDS

_GOES_ON = """
import json, sys, time
import torch, transformers, h5py, xxhash
import probekit.capture
from probekit.capture import shardwalk
begin = time.perf_counter()
inside = []
own = shardwalk.forward_shard
def timed(*given):
    start = time.perf_counter()
    own(*given)
    inside.append(time.perf_counter() - start)
import probekit.capture.running as running
running.forward_shard = timed
at = {}
said = lambda name: at.setdefault(name, time.perf_counter() - begin)
probekit.capture.run(json.loads(sys.argv[1]), repair="repair" in sys.argv,
                     on_plan=lambda p: said("plan"), on_start=lambda a, b: said("start"))
at["end"] = time.perf_counter() - begin
print(json.dumps({**at, "shard": inside[-1]}))  # those before it are the self-check's
"""


def texts(path: Path, n: int) -> int:
    """Write texts of about eight words; give the bytes of all."""
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(4, 12))) for _ in range(n)]
    path.write_text("\n".join(lines) + "\n")
    return sum(len(line.encode()) for line in lines)


def goes_on(config: dict[str, Any], *more: str) -> dict[str, float]:
    """Take the last shard and the index away, and let the run go on."""
    run = Path(config["store"]["path"])
    last = max(run.glob("shards/*.h5")).stem
    for file in (*run.glob(f"shards/{last}.*"), run / "trace.h5", run / "trace.json"):
        file.unlink()
    done = subprocess.run(
        [sys.executable, "-c", _GOES_ON, json.dumps(config), *more],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print what it takes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="30 000 texts, once each")
    quick = parser.parse_args().quick
    n_texts, times = (30_000, 1) if quick else (300_000, 3)
    folder = Path(tempfile.mkdtemp(prefix="resume-"))
    try:
        n_bytes = texts(folder / "texts.txt", n_texts)
        config = {
            "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
            "inputs": {"file": str(folder / "texts.txt")},
            "probes": [{"sites": "resid_post", "layers": [-1], "positions": "last"}],
            "store": {"path": str(folder / "run"), "shard_bytes": 512 * (n_texts // 20)},
        }
        import probekit

        trace = probekit.run(config)
        n_tokens, sealed = len(trace.tokens), (folder / "run" / "inputs.h5").stat().st_size
        print(f"{n_texts:,} texts, {n_tokens:,} tokens, {trace.provenance['n_shards']} shards")
        print(
            f"inputs.h5: {sealed / 1e6:.1f} MB, {n_bytes / 1e6:.1f} of it texts: "
            f"{(sealed - n_bytes) / n_tokens:.1f} bytes a token + the texts (target 12)"
        )
        beyond: dict[str, list[float]] = {"sealed": [], "texts": []}
        for _ in range(times):
            for how, seconds in beyond.items():
                if how == "texts":
                    for name in ("inputs.h5", "inputs.json"):
                        (folder / "run" / name).unlink()
                found = goes_on(config, *(["repair"] if how == "texts" else []))
                seconds.append(found["end"] - found["shard"])
                print(how, {name: round(value, 2) for name, value in found.items()})
        medians = {how: statistics.median(seconds) for how, seconds in beyond.items()}
        print(
            f"goes on in {medians['sealed']:.1f} s beyond imports and its shard (target 5), "
            f"without sealed inputs {medians['texts']:.1f} s"
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
