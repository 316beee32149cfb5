"""The runs that campaigns disturb, and what an undisturbed one leaves.

Knows configs and files; what lies in HDF5 is read by bare h5py.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import yaml

from campaigns.children import Ended, run_probekit

FOLDER = "run"  # of a trace, in a directory of its own: its name is part of what is stored
_PLAIN: dict[str, Any] = {
    "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
    "inputs": {
        "random": {"examples": 24, "min_tokens": 6, "max_tokens": 30, "seed": 1},
        "batch_tokens": 60,
    },
    "probes": [
        {"modules": "transformer.h.*.mlp.act", "neurons": list(range(40))},
        {"sites": "resid_post", "positions": "last"},
        {"sites": "pattern", "layers": 0},
    ],
    "store": {"path": FOLDER, "shard_bytes": "35KiB"},
}
_GENERATING: dict[str, Any] = {
    **_PLAIN,
    "probes": [{"modules": "transformer.h.*.mlp.act", "neurons": list(range(40))}],
    "generate": {"max_new_tokens": 4},
    "execution_order": True,
    "store": {"path": FOLDER, "shard_bytes": "25KiB"},
}
_PROMPTS = {**_PLAIN["inputs"], "random": {**_PLAIN["inputs"]["random"], "examples": 8}}
_SAMPLING: dict[str, Any] = {
    **_GENERATING,
    "inputs": _PROMPTS,
    "generate": {"max_new_tokens": 4, "strategy": "sample", "samples": 3},
}
_SEARCHING: dict[str, Any] = {
    **_GENERATING,
    "inputs": _PROMPTS,
    "generate": {"max_new_tokens": 4, "beams": 3},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": _PLAIN,
    "compressed": {**_PLAIN, "store": {**_PLAIN["store"], "compression": "gzip"}},
    "generating": _GENERATING,  # through a spool, and with seconds in it
    "sampling": _SAMPLING,
    "searching": _SEARCHING,
}
N_EXAMPLES = 24
N_PASSES = {"searching": 2}  # that read an example from its beginning, where they are not one
MADE = "made.json"  # names of files that may differ between equal runs end so


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing disturbed."""

    name: str  # of its config
    place: Path  # the directory that holds config.yaml and the trace's folder
    seconds: float  # that it took

    @property
    def trace(self) -> Path:
        """The folder of the trace."""
        return self.place / FOLDER

    @property
    def config(self) -> Path:
        """The config's file."""
        return self.place / "config.yaml"

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Every file of the trace."""
        return files_of(self.trace)

    @cached_property
    def extents(self) -> dict[str, dict[str, range]]:
        """By shard file and site: the bytes of rows that lie in one piece, as bare h5py says."""
        return {f"shards/{p.name}": _extents(p) for p in self.trace.glob("shards/*.h5")}

    def fresh(self, place: Path) -> Path:
        """Give an empty directory with this config in it."""
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        shutil.copy(self.config, place)
        return place

    def copy(self, place: Path) -> Path:
        """Give a directory with this config and a copy of its finished trace in it."""
        shutil.copytree(self.trace, self.fresh(place) / FOLDER)
        return place

    def differences(self, place: Path) -> list[str]:
        """Say in what another run of the same config differs from this one."""
        trace = place / FOLDER
        found, wanted = files_of(trace), self.files
        if found.keys() != wanted.keys():
            return [f"files differ: {sorted(found.keys() ^ wanted.keys())}"]
        equal = [name for name in wanted if not name.endswith(MADE)]
        return [f"{name} differs" for name in equal if found[name] != wanted[name]]


def undisturbed(name: str, scratch: Path) -> Undisturbed:
    """Run a config to its end, once."""
    place = scratch / f"undisturbed-{name}"
    place.mkdir(parents=True)
    (place / "config.yaml").write_text(yaml.safe_dump(CONFIGS[name]))
    begin = time.perf_counter()
    must_end(run_probekit(place, "run", "config.yaml", "-q"))
    return Undisturbed(name, place, time.perf_counter() - begin)


def must_end(ended: Ended) -> None:
    """Refuse to go on with a campaign whose own preparation failed."""
    if ended.code != 0:
        raise RuntimeError(f"exit {ended.code}: {ended.err}")


def files_of(folder: Path) -> dict[str, bytes]:
    """Give every file below a folder, by its path in it."""
    there = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in there}


def sealed(place: Path) -> dict[str, tuple[int, int, bytes]]:
    """Give inode, time of the last change and bytes of every file of a sealed shard."""
    shards = place / FOLDER / "shards"
    whole = [p for p in sorted(shards.glob("[0-9]*.json")) if p.with_suffix(".h5").exists()]
    files = [file for p in whole for file in (p, p.with_suffix(".h5"))]
    return {f.name: (f.stat().st_ino, f.stat().st_mtime_ns, f.read_bytes()) for f in files}


def n_examples_of(place: Path) -> int:
    """Count the examples of the sealed shards."""
    numbers = [int(Path(name).stem) for name in sealed(place) if name.endswith(".h5")]
    return sum(n_examples_in(place / FOLDER, number) for number in numbers)


def n_examples_in(trace: Path, number: int) -> int:
    """Count the examples of a shard; none where there is no such shard."""
    path = trace / "shards" / f"{number:05d}.h5"
    if not path.exists():
        return 0
    with h5py.File(path) as file:
        return len(file["examples/n_tokens"])


def _extents(shard: Path) -> dict[str, range]:
    found = {}
    with h5py.File(shard) as file:
        for module, group in file["sites"].items():
            for kind, dataset in group.items():
                begin, size = dataset.id.get_offset(), dataset.id.get_storage_size()
                if begin is not None:
                    found[f"{module}/{kind}"] = range(begin, begin + size)
    return found
