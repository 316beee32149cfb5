"""A reader of the README and the docs, who types every command and runs every snippet.

All pages are read by one process in one folder, which is what a fresh clone is: starting Python and
importing torch for each command would take most of the time. A page's commands and snippets run in
the order in which they stand there; each page begins with no Python names of another.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# The notebooks on SmolLM2 run by `make docs-full`; what is written by the build has no snippets.
SLOW_PAGES = ("gallery.md", "examples/", "tutorials/labelled-probe.md")
# Full-size models, and processes of their own: run with -m slow, by tests/docs/test_snippets.py;
# tests/planning/test_making.py looks at what is planned of phi3.yaml.
SLOW_LINES = ("configs/distilgpt2.yaml", "configs/phi3.yaml", "runs/many")
_BLOCK = re.compile(r"^(`{3,})(\{code-cell\} )?(\w+)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_OPTIONS = re.compile(r"\A---\n.*?^---\n", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """What stands between two fences."""

    kind: str  # bash, python, yaml, text, ...
    text: str


def pages() -> list[Path]:
    """Give the README, then every page whose snippets run by default."""
    found = sorted(DOCS.rglob("*.md"))
    read = [p for p in found if not p.relative_to(DOCS).as_posix().startswith(("_", *SLOW_PAGES))]
    return [ROOT / "README.md", *read]


def blocks(page: Path) -> list[Block]:
    """Give a page's blocks of code, the cells of a notebook as Python."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [
        Block("python" if cell else kind, _OPTIONS.sub("", text) if cell else text)
        for _, cell, kind, text in found
    ]


def commands(page: Path, *, slow: bool = False) -> list[str]:
    """Give the lines of a page that are commands of probekit."""
    lines = [line for block in blocks(page) if block.kind == "bash" for line in _lines(block)]
    return [line for line in lines if any(name in line for name in SLOW_LINES) == slow]


def _lines(block: Block) -> list[str]:
    return [line for line in block.text.splitlines() if line.startswith("probekit ")]


def read_all(folder: Path, names: list[str]) -> dict[str, dict[str, str]]:
    """Read pages in a process of its own.

    Args:
        folder: where to run, with the clone's configs.
        names: of the pages, relative to the clone.

    Returns:
        For each page what it printed, and the error that ended it, or "".
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, *names],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _read(page: Path) -> dict[str, str]:
    """Run a page's blocks in order, and stop at the first that fails."""
    said, here = io.StringIO(), {"__name__": "__main__"}
    try:
        for block in blocks(page):
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                if block.kind == "python":
                    exec(compile(block.text, str(page), "exec"), here)
                elif block.kind == "bash":
                    for line in _lines(block):
                        if not any(name in line for name in SLOW_LINES):
                            _type(line)
    except Exception:
        return {"said": said.getvalue(), "error": traceback.format_exc()}
    return {"said": said.getvalue(), "error": ""}


def _type(line: str) -> None:
    """Run a command as its entry point does, without a process of its own."""
    from probekit.cli.commands import main

    before, sys.argv = sys.argv, shlex.split(line)
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"{line}: exit code {ended.code}") from ended
    finally:
        sys.argv = before


if __name__ == "__main__":
    print(json.dumps({name: _read(ROOT / name) for name in sys.argv[1:]}))
