"""What the terminal shows of modules, from rows written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from probekit.cli import modulestable


def row(path: str, **more: Any) -> dict[str, Any]:
    made = {"path": path, "class": "Linear", "calls": 1, "inputs": [], "outputs": []}
    return made | {"portable": [], "parameters": [], "buffers": [], "settings": {}} | more


def tensor(name: str, shape: list[int], n_values: int, **more: Any) -> dict[str, Any]:
    made = {"name": name, "shape": shape, "dtype": "float32", "n_values": n_values}
    return made | {"shared_with": []} | more


@pytest.fixture
def lines(monkeypatch, capsys):
    def show(rows: list[dict[str, Any]], *, width: int = 80) -> list[str]:
        monkeypatch.setattr(
            modulestable,
            "console",
            lambda: Console(width=width, highlight=False, markup=False, emoji=False),
        )
        modulestable.show_modules(rows, long=True)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return show


def test_parameters_of_several_dtypes_say_each_theirs(lines):
    own = [tensor("weight", [2, 3], 6), tensor("scale", [], 1, dtype="bfloat16")]
    said = lines([row("a", parameters=own, buffers=[tensor("kept", [4], 4)])])
    assert said == [
        "a  Linear, 1 call",
        "  parameters  7 = weight [2, 3] float32 + scale [] bfloat16",
        "  buffers     4 float32 = kept [4]",
        "7 parameters in 1 of 1 module",
    ]


def test_a_long_line_is_broken_between_words_and_stays_in_its_column(lines):
    settings = {f"setting_{n}": n / 8 for n in range(12)} | {"kind": list(range(40))}
    said = lines([row("h.0.mlp", settings=settings)])
    inside = said[1:-1]
    assert max(map(len, said)) <= 80 and len(inside) > 3
    assert all(line.startswith(" " * 14) for line in inside[1:])
    text = " ".join(line[14:] for line in inside)
    assert "setting_11=1.375, kind=[0, 1, 2, 3," in text
    assert text.endswith(f"{', '.join(map(str, range(30, 40)))}]"), "nothing is left out"


@pytest.mark.parametrize(
    ("other", "heads"),
    [
        ({}, ["h.{0,1}.mlp"]),
        ({"calls": 2}, ["h.0.mlp", "h.1.mlp"]),
        ({"settings": {"layer_idx": 1, "top_k": 2}}, ["h.0.mlp", "h.1.mlp"]),
        ({"settings": {"layer_idx": 7, "top_k": 1}}, ["h.0.mlp", "h.1.mlp"]),
    ],
)
def test_only_layers_alike_in_all_but_their_number_are_shown_once(lines, other, heads):
    first = row("h.0.mlp", settings={"layer_idx": 0, "top_k": 1})
    second = row("h.1.mlp", settings={"layer_idx": 1, "top_k": 1}) | other
    said = lines([first, second])
    shown = [line.split("  ")[0] for line in said[:-1] if not line.startswith(" ")]
    assert [head.replace("..", ",") for head in shown] == heads
    assert ("layer_idx=0" in "".join(said)) == (len(heads) == 2)


def test_modules_are_shown_in_the_order_in_which_they_first_run(lines):
    paths = ["h.0", "h.0.a", "h.1", "h.1.a", "end"]
    said = lines([row(path) for path in paths])
    assert [line.split()[0] for line in said[:-1]] == ["h.{0..1}", "h.{0..1}.a", "end"]


def test_a_shared_parameter_is_counted_once_if_it_is_listed_twice(lines):
    a = row("a", parameters=[tensor("weight", [3], 3, shared_with=["b.weight", "c.weight"])])
    b = row("b", parameters=[tensor("weight", [3], 3, shared_with=["a.weight", "c.weight"])])
    assert lines([a, b])[-1] == "3 parameters (shared ones once) in 2 of 2 modules"
    assert lines([b])[-1] == "3 parameters in 1 of 1 module"
    assert "  parameters  3 float32 = weight [3]" in lines([b])
    assert "              weight is also a.weight, c.weight" in lines([b])


def test_a_setting_cannot_write_to_the_terminal(lines):
    (_, said, _) = lines([row("a", settings={"kind": "x\x1b[31m\u202ey [bold]"})])
    assert "\x1b" not in said and "\u202e" not in said
    assert "[bold]" in said
