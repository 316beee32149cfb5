"""Run the notebooks on SmolLM2 anew: `make docs-full`; in docs/ `python -m _generate gallery`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat

from _generate.kept import DOCS, PICTURE, SOURCES, execute, picture_of

QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}


def main(names: list[str]) -> None:
    """Run all of them, or those that are named."""
    os.environ |= QUIET
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(DOCS.parent), os.environ.get("PYTHONPATH")))
    )
    for source in SOURCES:
        if names and source.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(source, Path(folder))
        made = source.with_suffix(".ipynb")
        nbformat.write(notebook, made)
        if (picture := picture_of(notebook)) is not None:
            PICTURE.write_bytes(picture)
        print(f"{made.relative_to(DOCS.parent)}: {made.stat().st_size / 1024:.0f} KiB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
