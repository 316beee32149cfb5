"""What the docs take from the code, written before Sphinx reads a page.

`configkeys`, `commandline` and `columns` each write one part of the reference to docs/_made, which
a page includes. `kept` knows the notebooks whose outputs are committed; `names` finds what a type
in a signature means, `fields` what a result holds. Knows Sphinx; nothing of what a page says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

from _generate.columns import columns_page
from _generate.commandline import commands_page
from _generate.configkeys import keys_page
from _generate.fields import describe_fields, say_plainly
from _generate.kept import stale_notebooks
from _generate.names import resolve

DOCS = Path(__file__).parents[1]
PARTS = {"config.md": keys_page, "command-line.md": commands_page, "columns.md": columns_page}


def write_parts(folder: Path) -> None:
    """Write each generated part, and leave alone what is as it was: Sphinx goes by file times."""
    folder.mkdir(exist_ok=True)
    for name, write in PARTS.items():
        file, text = folder / name, write()
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def _prepare(app: Sphinx, config: Config) -> None:
    write_parts(DOCS / "_made")
    if stale := stale_notebooks():
        raise ExtensionError("\n".join([*stale, "run `make docs-full`, then commit what it wrote"]))


def setup(app: Sphinx) -> dict[str, Any]:
    """Join the build."""
    app.connect("config-inited", _prepare)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", describe_fields, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", say_plainly, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
