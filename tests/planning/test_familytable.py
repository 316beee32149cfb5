"""The table of families: docs/models.md says what is derived and proved today."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from probekit.cli import familiestable
from probekit.errors import PlanError
from probekit.models.places import tinymodels
from probekit.planning import list_families, to_markdown

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
SAMPLE = ("bert", "cohere", "granite", "mistral", "mixtral")


def numberless(line: str) -> str:
    """Leave out how large a difference was: it is a matter of rounding, and of the machine."""
    return re.sub(r"fails by \S+", "fails by", line)


def lines_of(text: str, family: str) -> list[str]:
    return [numberless(x) for x in text.splitlines() if x.startswith(f"| {family} |")]


@pytest.mark.parametrize("family", SAMPLE)
def test_the_page_says_what_is_found_now(family: str) -> None:
    said = lines_of(PAGE.read_text(encoding="utf-8"), family)
    assert len(said) >= 1
    assert lines_of(to_markdown(list_families(family)), family) == said


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(tinymodels.FAMILIES) - set(SAMPLE)))
def test_so_it_does_of_every_family(family: str) -> None:
    said = lines_of(PAGE.read_text(encoding="utf-8"), family)
    assert lines_of(to_markdown(list_families(family)), family) == said


def test_at_least_a_hundred_families_have_portable_names() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("## What is refused")[0]
    rows = [
        line.split(" | ")
        for line in table.splitlines()
        if re.search(r"\| (derived|table) \|", line)
    ]
    named = [row for row in rows if row[4] == row[6] == "yes"]  # resid_pre and resid_post
    assert len(named) >= 100
    assert len(rows) == len({row[0] for row in rows})


def test_every_causal_family_of_transformers_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    every = (*tinymodels.FAMILIES, *tinymodels.OTHERS)
    assert [family for family in every if f"\n| {family} |" not in text] == []


def test_the_rows_say_where_a_name_is_and_what_proves_it() -> None:
    (row,) = list_families("granite")
    assert row["how"] == "derived"
    assert row["names"]["attn_out"] == {
        "place": "model.layers.{layer}.self_attn/output",
        "layers": [0, 1, 2, 3],
        "can_be_changed": True,
        "factor": 0.22,
    }
    assert row["names"]["ln1_scale"]["can_be_changed"] is False
    assert all(one["holds"] and one["difference"] <= 1e-4 for one in row["identities"])
    assert len(row["identities"]) > 10
    assert set(row["versions"]) == {"probekit", "transformers", "torch"}
    assert json.loads(json.dumps(row)) == row


def test_a_family_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(PlanError, match=r"called 'granit'; the nearest: granite"):
        list_families("granit")


def test_a_family_without_a_tiny_model_says_why() -> None:
    (row,) = list_families("gemma3n")
    assert (row["how"], row["names"]) == ("not built", {})
    assert "several inside" in row["why"]


def test_the_terminal_shows_one_family_and_several(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*list_families("mistral"), *list_families("gemma3n")]
    familiestable.show_families(rows[:1])
    one = capsys.readouterr().out
    assert "mistral (MistralForCausalLM), derived" in one
    assert re.search(r"resid_pre \+ attn_out = resid_mid +\d\.\de[-+]\d\d +yes", one)
    familiestable.show_families(rows)
    assert "with portable names: 1 of 2 families" in " ".join(capsys.readouterr().out.split())
    assert "| mistral | derived |" in familiestable.page(rows)
