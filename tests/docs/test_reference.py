"""The reference leaves nothing out: keys, kinds, names, commands, columns."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from probekit.config import PORTABLE_NAMES, RECORD_KINDS, ProbeConfig
from probekit.store.format import AXES

pytest.importorskip("sphinx", reason="`make docs` installs it")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The generated parts, written as the build writes them."""
    folder = tmp_path_factory.mktemp("made")
    code = "import sys; from pathlib import Path; from _generate import write_parts; "
    code += "write_parts(Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(folder)],
        cwd=DOCS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {file.stem: file.read_text(encoding="utf-8") for file in folder.iterdir()}


def page(name):
    return (DOCS / name).read_text(encoding="utf-8")


def test_every_key_of_the_config_has_a_line(made):
    from pydantic import BaseModel

    def keys(model):
        for name, field in model.model_fields.items():
            yield name
            inside = re.findall(r"probekit\.config\.\w+\.(\w+)", str(field.annotation))
            for inner in inside:
                found = [c for c in BaseModel.__subclasses__() for c in _all_below(c)]
                yield from keys(next(c for c in found if c.__name__ == inner))

    for key in set(keys(ProbeConfig)):
        assert f"| `{key}` |" in made["config"], key


def _all_below(cls):
    return [cls, *(one for below in cls.__subclasses__() for one in _all_below(below))]


def test_every_command_has_a_section(made):
    from probekit.cli.commands import app

    for command in app.registered_commands:
        name = command.name or command.callback.__name__
        assert f"## `probekit {name}`" in made["command-line"], name


def test_every_column_has_a_line(made):
    for axis in AXES.values():
        for column in axis.columns:
            name = f"`/{axis.table}/{column.name}`"
            line = f"| {name} | {column.means} | {column.unit} | {column.source} |"
            assert line in made["columns"], line


@pytest.mark.parametrize(
    ("name", "words"),
    [("reference/record-kinds.md", RECORD_KINDS), ("reference/portable-names.md", PORTABLE_NAMES)],
)
def test_every_word_of_the_config_is_explained(name, words):
    missing = [word for word in words if f"`{word}`" not in page(name)]
    assert missing == []


def test_the_config_shown_whole_has_every_section():
    text = page("reference/config.md")
    for key in ProbeConfig.model_fields:
        assert re.search(rf"^{key}:", text, re.MULTILINE), key


def test_the_readme_fits_on_a_screen_or_three():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    assert len(re.findall(r"^!\[", readme, re.MULTILINE)) == 1


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_a_page_of_the_clone_links_to_is_there(name):
    """The links of the docs themselves are checked in the built site."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_every_page_of_the_docs_is_named_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for part in ("tutorials", "how-to", "explanation"):
        for file in (DOCS / part).glob("*.md"):
            made = file.with_suffix(".ipynb")  # a notebook with its outputs, where there is one
            assert f"docs/{part}/{made.name if made.exists() else file.name}" in readme
    for file in (DOCS / "examples").glob("*.ipynb"):
        assert f"docs/examples/{file.name}" in readme
