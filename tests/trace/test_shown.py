"""Tables as text and as HTML."""

import numpy as np
from tags import Tags

from probekit.trace.shown.tables import Marked, Table

TABLE = Table(
    title="two\nlines",
    columns=("name", "value", "n"),
    rows=[
        ("<b>", 0.123456, 12345),
        ("a\nb", np.float32("nan"), None),
        (Marked("x ", "<y>", " z"), 1e-9, 3),
    ],
    note="below",
)


def test_text_is_aligned_numbers_to_the_right():
    assert TABLE.text().splitlines() == [
        "two",
        "lines",
        "name        value       n",
        "<b>        0.1235  12,345",
        "a⏎b             –",
        "x «<y>» z   1e-09       3",
        "below",
    ]


def test_html_escapes_what_it_shows_and_has_neither_script_nor_colours_of_its_own():
    page = TABLE.html()
    found = Tags(page)
    assert found.cells[:6] == ["name", "value", "n", "<b>", "0.1235", "12,345"]
    assert set(found.tags) == {"div", "table", "thead", "tbody", "tr", "th", "td", "mark"}
    assert "<b>" not in page
    assert "&lt;y&gt;</mark>" in page
    # On a dark page and on a light one alike: nothing but see-through tints and inherited colours.
    for style in found.styles.split(";"):
        if "color" in style or "background" in style:
            assert any(way in style for way in ("rgba(", "inherit", "none"))


def test_long_tables_say_how_much_is_left_out():
    long = Table(title="t", columns=("n",), rows=[(n,) for n in range(100)])
    assert "... and 60 more rows" in long.text()
    assert "... and 60 more rows" in long.html()
    assert len(long.text().splitlines()) == 43


def test_an_empty_table_is_one():
    empty = Table(title="t", columns=("a", "b"), rows=[])
    assert empty.text() == "t\na  b"
    assert "<tbody></tbody>" in empty.html()
