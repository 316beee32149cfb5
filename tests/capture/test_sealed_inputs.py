"""The inputs of a run are sealed with it: what goes on, or is repaired, tokenizes nothing again."""

from __future__ import annotations

import errno
import shutil
from functools import partial
from pathlib import Path
from typing import Any, Never

import by_hand
import h5py
import numpy as np
import pytest
import tiny_models as tiny
from transformers import AutoTokenizer, ByT5Tokenizer

import probekit
from probekit.errors import StoreError
from probekit.inputs import tokenizing
from probekit.store.format.checksums import FileRecord, rest_checksum

MLP = [{"modules": "transformer.h.*.mlp.act"}]
TEXTS = [f"{n} {n + 1} {2 * n}" for n in range(12)]

go = partial(probekit.run, self_check=False)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return by_hand.save_tiny(tmp_path_factory.mktemp("gpt2"), "gpt2")


@pytest.fixture(scope="module")
def finished(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of texts, and a run over it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("texts.txt").write_text("\n".join(TEXTS) + "\n")
        go(config(gpt2))
    return folder


@pytest.fixture(autouse=True)
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with the file of texts."""
    monkeypatch.chdir(tmp_path)
    shutil.copy2(finished / "texts.txt", "texts.txt")
    return tmp_path


@pytest.fixture
def ran(finished: Path, here: Path) -> Path:
    """Have the run there, too, as `go(config(gpt2))` leaves it."""
    return shutil.copytree(finished / "run", here / "run")


def config(gpt2: Path, path: str = "run", **more: Any) -> dict[str, Any]:
    found = by_hand.config(gpt2, path, probes=MLP, **{"store__shard_bytes": "4KiB", **more})
    return {**found, "inputs": {"file": "texts.txt", "batch_tokens": 30}}


def half_done(path: str = "run") -> Path:
    """Take the second half of the shards away, and the index; gives one that is gone."""
    shards = sorted(Path(path).glob("shards/*.h5"))
    assert len(shards) > 3
    for shard in shards[len(shards) // 2 :]:
        shard.unlink()
        shard.with_suffix(".json").unlink()
    for name in ("trace.h5", "trace.json"):
        (Path(path) / name).unlink()
    return shards[-1]


def files(path: str) -> dict[str, bytes]:
    there = [p for p in Path(path).rglob("*") if p.is_file() and not p.name.endswith("made.json")]
    return {str(p.relative_to(path)): p.read_bytes() for p in there}


def never(*_: Any) -> Never:
    raise AssertionError("a text was tokenized")


@pytest.mark.usefixtures("ran")
def test_bare_h5py_reads_what_the_tokenizer_made(gpt2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(gpt2 / "words")
    with h5py.File("run/inputs.h5") as file:
        for number, text in enumerate(TEXTS):
            begin, end = file["texts/ends"][number : number + 2]
            assert file["texts/values"][begin:end].tobytes().decode() == text
            begin, end = file["ids/ends"][number : number + 2]
            assert file["ids/values"][begin:end].tobytes().decode() == str(number)
            begin, end = file["tokens/ends"][number : number + 2]
            wanted = tokenizer(text, return_offsets_mapping=True)
            assert file["tokens/values"][begin:end].tolist() == wanted["input_ids"]
            spans = [tuple(span) for span in file["spans"][begin:end].tolist()]
            assert spans == wanted["offset_mapping"]


@pytest.mark.usefixtures("ran")
def test_a_run_goes_on_and_tokenizes_nothing(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = files("run")
    half_done()
    monkeypatch.setattr(tokenizing, "encoder", lambda *_: never)
    go(config(gpt2))
    assert files("run") == whole
    (Path("run/shards/00001.h5")).write_bytes(b"damaged")
    go(config(gpt2), repair=True)
    assert files("run") == whole
    assert probekit.plan(config(gpt2)).examples is not None


@pytest.mark.usefixtures("ran")
def test_a_run_goes_on_without_its_texts_and_says_so(gpt2: Path) -> None:
    whole = files("run")
    half_done()
    Path("texts.txt").unlink()
    plans: list[Any] = []
    go(config(gpt2), on_plan=plans.append)
    assert files("run") == whole
    assert any("inputs.file: is gone; the run goes on" in note for note in plans[0].notes)


@pytest.mark.usefixtures("ran")
def test_a_file_that_has_changed_is_told_and_nothing_is_lost(gpt2: Path) -> None:
    before = files("run")
    Path("texts.txt").write_text("\n".join([*TEXTS[:-1], "7 7"]))
    plan = probekit.plan(config(gpt2))
    assert any("inputs.file: has changed since the run in run began" in n for n in plan.notes)
    with pytest.raises(StoreError, match=r"holds another run .*the texts are others"):
        go(config(gpt2))
    assert files("run") == before


@pytest.mark.usefixtures("ran")
def test_a_file_that_says_the_same_otherwise_is_read_again(gpt2: Path) -> None:
    whole = files("run")
    half_done()
    Path("texts.txt").write_bytes("\r\n".join(TEXTS).encode())
    go(config(gpt2))
    assert files("run") == whole


def test_another_tokenizer_is_asked_and_refused_where_it_cuts_otherwise(
    gpt2: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(gpt2, tmp_path / "model")
    go(config(model))
    tokenizer = model / "words" / "tokenizer.json"
    tokenizer.write_text(
        tokenizer.read_text().replace('"3": 3', '"3": 4').replace('"4": 4', '"4": 3')
    )
    with pytest.raises(StoreError, match="the texts are others"):
        go(config(model))


@pytest.mark.usefixtures("ran")
def test_overwrite_reads_the_texts_again(gpt2: Path) -> None:
    Path("texts.txt").write_text("1 2 3\n")
    assert len(go(config(gpt2), overwrite=True).examples) == 1
    assert probekit.verify("run").whole


@pytest.mark.few(2)
@pytest.mark.parametrize("damage", ["changed", "cut", "lost", "record lost", "another's"])
@pytest.mark.usefixtures("ran")
def test_damaged_inputs_are_found_and_repaired(gpt2: Path, damage: str) -> None:
    whole = files("run")
    inputs, record = Path("run/inputs.h5"), Path("run/inputs.json")
    if damage == "changed":
        data = bytearray(inputs.read_bytes())
        data[-3] ^= 4
        inputs.write_bytes(data)
    elif damage == "cut":
        inputs.write_bytes(inputs.read_bytes()[:-1])
    elif damage == "lost":
        inputs.unlink()
    elif damage == "record lost":
        record.unlink()
    else:
        Path("texts.txt").write_text("1 2 3\n")
        go(config(gpt2, "other"))
        shutil.copy("other/inputs.h5", inputs)
        shutil.copy("other/inputs.json", record)
        Path("texts.txt").write_text("\n".join(TEXTS) + "\n")
    verdict = probekit.verify("run")
    named = "inputs.json" if damage == "record lost" else "inputs.h5"
    assert [d.file for d in verdict.damages] == [named]
    with pytest.raises(StoreError, match=rf"is damaged: {named}: .* --repair"):
        go(config(gpt2))
    notes: list[str] = []
    go(config(gpt2), repair=True, on_note=notes.append)
    assert any(f"damaged, and computed again: {named}" in note for note in notes)
    assert files("run") == whole
    assert probekit.verify("run").whole


@pytest.mark.usefixtures("ran")
def test_a_leftover_without_a_record_is_replaced(gpt2: Path) -> None:
    """What a process wrote that was killed between a file and its record."""
    whole = files("run")
    shutil.rmtree("run")
    Path("run").mkdir()
    Path("run/inputs.h5").write_bytes(b"half")
    go(config(gpt2))
    assert files("run") == whole


def test_the_smallest_numbers_that_fit_are_stored(gpt2: Path) -> None:
    long = " ".join(["1"] * 300)  # characters up to 599
    Path("texts.txt").write_text(f"{long}\n")
    go({**config(gpt2), "inputs": {"file": "texts.txt", "max_tokens": 60}})
    with h5py.File("run/inputs.h5") as file:
        assert file["spans"].dtype == np.uint8  # the tokens were cut at character 119
        assert file["tokens/values"].dtype == np.int32
        assert file["texts/ends"].dtype == np.uint16
        assert file.attrs["n_truncated"] == 1


def test_characters_follow_the_tokenizer_through_the_trace(tmp_path: Path) -> None:
    texts = ["The capital of France is", "não 🙂 naïve", "  two  spaces"]
    trace = probekit.run(
        {
            "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
            "inputs": {"texts": texts},
            "probes": [{"sites": "resid_post", "layers": [0]}],
            "store": {"path": "run", "shard_bytes": 5000},
        }
    )
    tokenizer = AutoTokenizer.from_pretrained(Path(probekit.__file__).parent / "samples/tiny-gpt2")
    wanted = [
        span
        for text in texts
        for span in tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    ]
    found = zip(trace.tokens.char_start[:].tolist(), trace.tokens.char_end[:].tolist(), strict=True)
    assert list(found) == wanted
    for example in trace.examples:
        rows = slice(example.first_token, example.first_token + example.n_tokens)
        covered = set()
        for start, end in zip(
            trace.tokens.char_start[rows], trace.tokens.char_end[rows], strict=True
        ):
            covered |= set(range(start, end))
        missing = [c for n, c in enumerate(example.text) if n not in covered]
        assert set(missing) <= {" "}
    assert trace.to_pandas("tokens").char_end.tolist() == [end for _, end in wanted]


def test_generated_tokens_cover_no_character() -> None:
    trace = probekit.run(
        {
            "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
            "inputs": {"texts": ["The capital of", "Cats"]},
            "generate": {"max_new_tokens": 3},
            "probes": [{"sites": "resid_post", "layers": [0]}],
            "store": {"path": "run"},
        }
    )
    generated = trace.tokens.step[:] > 0
    assert generated.sum() == 6
    assert set(trace.tokens.char_start[:][generated].tolist()) == {-1}
    assert set(trace.tokens.char_end[:][generated].tolist()) == {-1}
    assert trace.tokens.char_end[:][~generated].min() > 0


def test_a_tokenizer_that_says_no_characters_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny.build("gpt2", vocab_size=400).save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder / "words")
    made = by_hand.config(folder, "run", probes=MLP)
    made["inputs"] = {"texts": ["ab", "c"]}
    plans: list[Any] = []
    trace = go(made, on_plan=plans.append)
    assert any("does not say which characters a token covers" in n for n in plans[0].notes)
    with pytest.raises(StoreError, match="was made without tokens/char_start"):
        trace.tokens.char_start  # noqa: B018
    assert "char_start" not in trace.to_pandas("tokens")
    assert "token_char_start" not in trace.to_xarray()
    half = files("run")
    Path("run/trace.h5").unlink()
    go(made)
    assert files("run") == half


def test_random_inputs_are_sealed_too(gpt2: Path) -> None:
    made = {**config(gpt2), "inputs": {"random": {"examples": 5, "max_tokens": 9, "seed": 3}}}
    plans: list[Any] = []
    trace = go(made, on_plan=plans.append)
    assert not any("characters" in note for note in plans[0].notes)
    with h5py.File("run/inputs.h5") as file:
        assert file["tokens/values"][:].tolist() == trace.tokens.id[:].tolist()
        assert "spans" not in file


@pytest.mark.parametrize("name", ["inputs.json", "inputs.h5"])
def test_a_folder_in_the_way_is_no_sealed_file(gpt2: Path, name: str) -> None:
    Path("run", name).mkdir(parents=True)
    with pytest.raises(StoreError, match=r"cannot be removed: Is a directory"):
        go(config(gpt2))
    Path("run", name).rmdir()
    go(config(gpt2))
    assert probekit.verify("run").whole


@pytest.mark.parametrize("damage", ["changed", "lost", "another's"])
def test_inputs_that_are_wrong_before_the_first_shard_are_sealed_again(
    gpt2: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def struck(*_: Any, **__: Any) -> Never:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("probekit.capture.running.capture", struck)
        with pytest.raises(KeyboardInterrupt):
            go(config(gpt2))
    assert not list(Path("run").glob("shards/*"))
    inputs = Path("run/inputs.h5")
    if damage == "changed":
        inputs.write_bytes(inputs.read_bytes()[:-1] + b"\x7f")
    elif damage == "lost":
        inputs.unlink()
    else:
        Path("texts.txt").write_text("1 2 3\n")
        go(config(gpt2, "other"))
        for name in ("inputs.h5", "inputs.json"):
            shutil.copy(f"other/{name}", f"run/{name}")
        Path("texts.txt").write_text("\n".join(TEXTS) + "\n")
    go(config(gpt2))
    assert probekit.verify("run").whole


def test_a_leftover_on_a_file_system_without_hard_links_is_replaced(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    go(config(gpt2))
    whole = files("run")
    half_done().write_bytes(b"of another who died")
    go(config(gpt2))
    assert files("run") == whole


def test_a_tokenizer_that_is_no_fast_one_and_does_not_say_so(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As mistral-common's, which transformers takes where it is installed."""
    load = tokenizing.load_tokenizer

    class Bare:
        all_special_tokens: tuple[str, ...] = ()

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __call__(self, texts: list[str], **given: Any) -> Any:
            assert "return_offsets_mapping" not in given
            return self.inner(texts, **given)

        def __len__(self) -> int:
            return len(self.inner)

        def __getattr__(self, name: str) -> Any:
            if name == "is_fast":
                raise AttributeError(name)
            return getattr(self.inner, name)

    monkeypatch.setattr(tokenizing, "load_tokenizer", lambda config: Bare(load(config)))
    assert len(go(config(gpt2)).examples) == len(TEXTS)


@pytest.mark.usefixtures("ran")
def test_another_file_is_another_run_also_where_it_says_the_same(gpt2: Path) -> None:
    Path("texts.csv").write_bytes(Path("texts.txt").read_bytes())
    other = {**config(gpt2), "inputs": {"file": "texts.csv", "field": TEXTS[0]}}
    assert len(probekit.plan(other).examples or ()) == len(TEXTS) - 1  # the first line is a header
    missing = {**config(gpt2), "inputs": {"file": "typo.txt"}}
    with pytest.raises(probekit.ConfigError, match="there is no file"):
        probekit.plan(missing)


LIES: dict[str, tuple[str, Any]] = {
    "fewer ids": ("ids/ends", np.array([0, 1], np.uint8)),
    "no examples": ("tokens/ends", np.array([0], np.uint8)),
    "an example without tokens": ("tokens/ends", np.array([0, 0, *range(6, 36, 3)], np.uint8)),
    "floats": ("tokens/values", np.zeros(36)),
    "two axes": ("tokens/values", np.zeros((36, 1), np.int32)),
    "below 0": ("tokens/values", np.full(36, -1, np.int32)),
    "flat spans": ("spans", np.zeros(72, np.uint8)),
    "three columns": ("spans", np.zeros((36, 3), np.uint8)),
    "few spans": ("spans", np.zeros((35, 2), np.uint8)),
    "NaN": ("spans", np.full((36, 2), np.nan)),
    "spans that turn": ("spans", np.tile(np.array([[5, 2]], np.uint8), (36, 1))),
    "no UTF-8": ("texts/values", None),
}


@pytest.mark.few(4)
@pytest.mark.parametrize("name", LIES)
@pytest.mark.usefixtures("ran")
def test_a_strangers_inputs_are_refused_or_read_again(gpt2: Path, name: str) -> None:
    half_done()
    path, values = LIES[name]
    with h5py.File("run/inputs.h5", "r+") as file:
        values = np.full(len(file[path]), 0xFF, np.uint8) if values is None else values
        del file[path]
        file[path] = values
    record = FileRecord(
        file_bytes=Path("run/inputs.h5").stat().st_size,
        rest=rest_checksum(Path("run/inputs.h5"), ()),
        sites={},
    )
    record.write(Path("run/inputs.json"))
    with pytest.raises(StoreError):
        go(config(gpt2))
    if name != "no UTF-8":
        go(config(gpt2), repair=True)
        assert probekit.verify("run").whole


def test_a_dataset_in_a_folder_that_has_changed_is_told(gpt2: Path) -> None:
    pytest.importorskip("datasets")
    Path("ds").mkdir()
    Path("ds/train.jsonl").write_text("".join(f'{{"text": "{t}"}}\n' for t in TEXTS))
    made = {**config(gpt2), "inputs": {"dataset": {"name": "./ds"}}}
    go(made)
    assert len(probekit.plan(made).examples or ()) == len(TEXTS)
    Path("ds/train.jsonl").write_text('{"text": "5 6"}\n')
    assert any("inputs.dataset: has changed" in note for note in probekit.plan(made).notes)
    with pytest.raises(StoreError, match="the texts are others"):
        go(made)
    shutil.rmtree("ds")
    assert any("inputs.dataset: is gone" in note for note in probekit.plan(made).notes)
