"""Tables: what folds where, and what never does."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from probekit.cli.tables import folded, show_labelled, show_table
from probekit.cli.terminal import console

COLUMNS = ("site", "sites", "axes of one", "bytes each")
ROWS = [
    ("model.layers.{0..31}.self_attn.q_proj/output", "1,032", "token=12,345, d_mlp=72", "28.0 KiB"),
    ("lm_head/top_k.logprob", "1", "token=7, k=5", "140 B"),
]


def shown(width: int) -> list[str]:
    file = io.StringIO()
    show_table(Console(file=file, width=width, color_system=None), COLUMNS, ROWS)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [120, 80, 60, 20])
def test_no_line_is_wider_than_the_terminal_or_ends_in_blanks(width: int) -> None:
    for line in shown(width):
        assert len(line) <= width
        assert line == line.rstrip()


@pytest.mark.parametrize("width", [80, 60, 45])
def test_names_fold_at_dots_and_slashes_and_numbers_never(width: int) -> None:
    lines = shown(width)
    words = {word for line in lines for word in line.split("  ") if word}
    for whole in ("1,032", "28.0 KiB", "140 B", "sites"):
        assert whole in {word.strip() for word in words}
    ends = [line.split("  ")[0].strip() for line in lines[1:]]
    assert all(end[-1:] in (".", "/", "") or end.endswith(("output", "logprob")) for end in ends)
    assert "".join(ends).startswith("model.layers.{0..31}.self_attn.q_proj/output")


def test_what_fits_is_not_folded() -> None:
    assert len(shown(100)) == 3


def test_into_a_file_every_row_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    long = ["a." * 500, "1", "token=1", "1 B"]
    show_table(console(), COLUMNS, [*ROWS, long])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("model.layers.{0..31}.self_attn.q_proj/output  ")
    assert lines[3].startswith("a." * 500)


def test_columns_that_cannot_stand_side_by_side_become_lines() -> None:
    lines = shown(40)
    assert lines[:2] == ["model.layers.{0..31}.self_attn.q_proj/", "output"]
    assert lines[2:5] == [
        "  sites        1,032",
        "  axes of one  token=12,345, d_mlp=72",
        "  bytes each   28.0 KiB",
    ]


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("a.b/c", 5, ["a.b/c"]),
        ("abc.def/ghi", 8, ["abc.def/", "ghi"]),
        ("h.{0,2,5}.attn", 9, ["h.", "{0,2,5}.", "attn"]),
        ("eps=1e-05, p=0.25", 9, ["eps=1e-05", ", p=0.25"]),
        ("weight [128, 384] + b", 12, ["weight", "[128, 384] +", "b"]),
        ("x=[batch, 5]", 10, ["x=[batch,", "5]"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("", 3, [""]),
        ("日本語.日本語", 7, ["日本語.", "日本語"]),
    ],
)
def test_text_folds_where_it_may(text: str, width: int, lines: list[str]) -> None:
    assert folded(text, width) == lines


def test_a_label_stands_beside_its_lines_and_above_them_where_it_is_narrow() -> None:
    for width, lines in (
        (30, ["  settings    eps=1e-05,", "              bias=true"]),
        (16, ["  settings", "    eps=1e-05,", "    bias=true"]),
        (1000, ["  settings    eps=1e-05, bias=true"]),
    ):
        file = io.StringIO()
        out = Console(file=file, width=width, color_system=None)
        show_labelled(out, "settings", "eps=1e-05, bias=true", label_width=10)
        assert file.getvalue().splitlines() == lines
