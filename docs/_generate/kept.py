"""The notebooks on SmolLM2-135M, whose outputs are committed: too slow for each build of the docs.

A source is a text notebook; beside it lies the .ipynb that Sphinx reads, made from it by running it
(`make docs-full`). That file says of which source and of which public surface of probekit it is, so
that a build knows when it is stale.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
SOURCES = (
    DOCS / "tutorials" / "labelled-probe.md",
    *sorted((DOCS / "examples").glob("*.md")),
    DOCS / "gallery.md",
)
PICTURE = DOCS / "gallery" / "attention.png"  # of the README: the cell tagged so in gallery.md
PICTURE_TAG = "readme-picture"
_STAMP = "probekit_docs"  # the key of a notebook's metadata


def stale_notebooks() -> list[str]:
    """Say which executed notebooks are not of today's source and surface, and why."""
    surface = surface_hash()
    return [why for source in SOURCES if (why := _stale(source, surface)) is not None]


def _stale(source: Path, surface: str) -> str | None:
    made = source.with_suffix(".ipynb")
    where = made.relative_to(DOCS.parent)
    if not made.exists():
        return f"{where} is missing: {source.name} was not run yet"
    import nbformat

    stamp = nbformat.read(made, as_version=4).metadata.get(_STAMP, {})
    if stamp.get("source") != source_hash(source):
        return f"{where} is stale: {source.name} has changed since it was run"
    if stamp.get("surface") != surface:
        return f"{where} is stale: the public surface of probekit has changed since it was run"
    return None


def source_hash(source: Path) -> str:
    """Digest a text notebook."""
    return _sha256(source.read_text(encoding="utf-8"))


def surface_hash() -> str:
    """Digest the package's public surface: its names, and how what they name is called."""
    import probekit

    lines = []
    for name in sorted(probekit.__all__):
        value = getattr(probekit, name)
        lines.append(f"{name}{_signature(value)}")
        if inspect.isclass(value):
            lines += [
                f"{name}.{member}{_signature(getattr(value, member))}"
                for member in sorted(dir(value))
                if not member.startswith("_")
            ]
    return _sha256("\n".join(lines))


def _signature(value: Any) -> str:
    try:
        return re.sub(" at 0x[0-9a-f]+", "", str(inspect.signature(value)))  # a default's place
    except (TypeError, ValueError):  # a property, or a class of C
        return f": {type(value).__name__}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def execute(source: Path, folder: Path) -> Any:
    """Run a text notebook in a folder, and give it with its outputs and its stamp.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    from myst_nb.core.read import read_myst_markdown_notebook
    from myst_parser.config.main import MdParserConfig
    from nbclient import NotebookClient

    text = source.read_text(encoding="utf-8")
    notebook = read_myst_markdown_notebook(text, MdParserConfig(), path=str(source))
    NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": str(folder)}}, kernel_name="python3"
    ).execute()
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "mystnb": {"execution_mode": "off"},
        _STAMP: {"source": source_hash(source), "surface": surface_hash()},
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # a random one would differ each time
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in ("tags", "mystnb")}
        cell.get("outputs", [])[:] = [
            one for one in cell.get("outputs", []) if one.get("name") != "stderr"
        ]
    return notebook


def picture_of(notebook: Any) -> bytes | None:
    """Give the PNG of the cell that is tagged as the README's picture; None where there is none."""
    for cell in notebook.cells:
        if PICTURE_TAG in cell.metadata.get("tags", ()):
            return next(base64.b64decode(o.data["image/png"]) for o in cell.outputs if "data" in o)
    return None
