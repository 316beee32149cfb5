"""Make golden.tar.xz anew: `python tests/golden/make.py`, in a checkout of the version it is of.

The archive in the repository was made by the commit that is written in COMMIT beside it, which is
the last of format 1. It is not to be made again by a later one.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from golden_configs import CONFIGS

import probekit

ARCHIVE = Path(__file__).with_name("golden.tar.xz")


def stop_half_way(config: dict[str, Any], progress: object) -> None:
    """End the run, as Ctrl-C does, when half of the shards are sealed."""
    if len(list(Path(config["store"]["path"], "shards").glob("*.json"))) >= 2:
        raise KeyboardInterrupt


def main() -> None:
    """Run every config in a folder of its own, and pack what came out."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, config in CONFIGS.items():
            try:
                stops = name.startswith("interrupted")
                watcher = partial(stop_half_way, config) if stops else None
                probekit.run(config, on_progress=watcher)
            except KeyboardInterrupt:
                print(f"{name} was stopped")
        with tarfile.open(ARCHIVE, "w:xz") as archive:
            archive.add("runs")


if __name__ == "__main__":
    main()
