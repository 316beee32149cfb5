"""What every picture shares: figures that leave no mark, labels that read as they are."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from probekit.plots import pictures
from probekit.plots.pictures import axes_for, drawn, new_figure, number_ticks, token_ticks


def test_a_figure_shows_itself_as_png():
    figure = new_figure(2, 1)
    assert isinstance(figure, Figure)
    figure.add_subplot().plot([1, 2])
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_axes_that_are_given_are_drawn_in():
    given = Figure().add_subplot()
    assert axes_for(given, 9, 9) is given
    assert axes_for(None, 3, 2).get_figure().get_size_inches().tolist() == [3, 2]


@pytest.mark.parametrize(
    ("token", "label"),
    [
        (" Tokyo", "Tokyo"),
        ("Tokyo", "Tokyo"),
        ("  two", " two"),
        (" ", "␣"),
        ("   ", "␣␣␣"),
        ("\n", "⏎"),
        ("a\tb", "a⇥b"),
        ("", "''"),
        ("$x_1^2$", "$x_1^2$"),
        ("é", "é"),
        ("東京", "\\u6771\\u4eac"),  # not in matplotlib's own font
    ],
)
def test_tokens_read_as_they_are(token, label):
    assert drawn(token) == label


def test_a_label_is_no_formula_and_draws_without_a_warning():
    figure = new_figure(3, 2)
    ax = figure.add_subplot()
    token_ticks(ax, "x", ["$x_1$", "\\frac", " 東", "\n", "$"])
    figure._repr_png_()
    assert [t.get_text() for t in ax.get_xticklabels()][:2] == ["$x_1$", "\\frac"]


def test_too_many_tokens_are_counted():
    ax = new_figure(3, 2).add_subplot()
    token_ticks(ax, "x", ["a"] * 300, first=7)
    assert [t.get_text() for t in ax.get_xticklabels()] == [
        "7",
        "17",
        *map(str, range(27, 307, 10)),
    ]


def test_many_names_are_thinned_out():
    ax = new_figure(3, 2).add_subplot()
    number_ticks(ax, "y", [str(n) for n in range(30)])
    assert [t.get_text() for t in ax.get_yticklabels()] == [str(n) for n in range(0, 30, 2)]


def test_what_is_written_into_a_map_can_be_read():
    ax = new_figure(3, 2).add_subplot()
    values = np.array([[0.0, 1.0], [0.25, np.nan]])
    image = ax.imshow(values, cmap="Blues", vmin=0, vmax=1)
    pictures.write_values(ax, values, image)
    assert [(t.get_text(), t.get_color()) for t in ax.texts] == [
        (".00", "black"), ("1.00", "white"), (".25", "black")
    ]  # fmt: skip
