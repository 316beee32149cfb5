"""How counts are written: the number with its thousands, and the noun that fits it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import probekit
from probekit.wording import by_count, counted

PACKAGE = Path(probekit.__file__).parent
COUNTED = (
    "array|batch|bit|byte|call|cell|character|choice|column|dimension|example|file|forward|head|item|key|layer|"
    "line|module|neuron|order|pair|parameter|pass|position|process|row|shard|site|step|text|time|"
    "token|value|worker"
)
NO_COUNTS = ("kind", "words", "self.dtype", "list(stored.shape)")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (counted(0, "shard"), "0 shards"),
        (counted(1, "shard"), "1 shard"),
        (counted(12345, "token"), "12,345 tokens"),
        (counted(1, "forward pass", "forward passes"), "1 forward pass"),
        (counted(2, "forward pass", "forward passes"), "2 forward passes"),
        (counted(1, "shard", of=3), "1 of 3 shards"),
        (counted(1, "shard", of=1), "1 of 1 shard"),
        (counted(1200, "row", of=4000), "1,200 of 4,000 rows"),
        (by_count(0, "is", "are"), "are"),
        (by_count(1, "is", "are"), "is"),
        (by_count(2, "is", "are"), "are"),
    ],
)
def test_a_count_has_its_thousands_and_the_noun_that_fits(said: str, expected: str) -> None:
    assert said == expected


def test_no_message_counts_by_itself() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {said}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if "samples" not in path.parts
        for line, said in uncounted(path.read_text(encoding="utf-8"))
    ]
    assert found == [], "probekit.wording.counted chooses the noun and writes the thousands"


@pytest.mark.parametrize(
    "line",
    [
        "f'{n} shards'",
        "f'{len(x):,} more tokens'",
        "f'{n} file(s)'",
        "f'{n} process(es)'",
        "f\"{n} site{'s' if n > 1 else ''}\"",
    ],
)
def test_a_message_that_counts_by_itself_would_be_found(line: str) -> None:
    assert [*uncounted(line)]


def uncounted(source: str) -> Iterator[tuple[int, str]]:
    """Find f-strings in which a number stands before a noun of many."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, after in zip(node.values, node.values[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(after, ast.Constant):
                continue
            said = ast.unparse(value.value)
            noun = re.match(
                rf" ((more|sealed|distinct) )?({COUNTED})(e?s\b(?!/)|\(|$)", after.value
            )
            if noun and said not in NO_COUNTS and not said.lstrip("_").isupper():
                yield node.lineno, f"{{{said}}}{after.value[:40]}"
