"""What a run will read, token by token, and which tokens each probe keeps.

Knows plans; loads no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from probekit.errors import PlanError
from probekit.inputs import GENERATED, Choice, Examples
from probekit.planning.planned import Plan
from probekit.store import Named, Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """One token that a model will read."""

    position: int  # in its example, from 0
    id: int
    text: str  # the characters that it covers; its own spelling where nobody says which
    char_start: int | None  # its first character, and the one behind its last
    char_end: int | None
    probes: tuple[int, ...]  # of the config, that keep it; from 0
    role: str | None = None  # whose turn of a chat it is of, empty for nobody's; None: is no chat
    turn: int | None = None  # number of the message, -1 for nobody's
    is_content: bool | None = None  # whether it has a character of what was said
    document_position: int | None = None  # place in its document, -1 of a special token; None: the
    # examples are whole


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleView:
    """One example that a model will read."""

    number: int
    id: str
    text: str
    columns: Mapping[str, Scalar]  # values of the user's own; None where there is none
    tokens: tuple[TokenView, ...]
    prompt: int | None = None  # number of its prompt; None where no two examples share one
    sample: int | None = None  # its number among the completions of that prompt
    document: int | None = None  # the number of the document that it is a piece of; None: is whole
    document_start: int | None = None  # place there of its first own token

    def to_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {**asdict(self), "tokens": [asdict(token) for token in self.tokens]}


def view_example(plan: Plan, number: int) -> ExampleView:
    """Say which tokens an example has, and which of them each probe keeps.

    Args:
        plan: of the run.
        number: of the example.

    Raises:
        PlanError: if there is no such example, or no tokenizer to say its tokens.
    """
    examples = plan.examples
    if examples is None and plan.config.inputs.is_streamed:
        where = plan.config.where("inputs.dataset.streaming")
        raise PlanError(
            f"{where}: the run alone reads the texts of a stream; --set "
            "inputs.dataset.streaming=false reads them now"
        )
    if examples is None:
        raise PlanError("; ".join(plan.notes) or "no tokenizer is at hand")
    if not 0 <= number < len(examples):
        raise PlanError(f"there is no example {number}: there are {len(examples)}, from 0 on")
    ids = examples.token_ids(number, number + 1).tolist()
    spans = {name: v.tolist() for name, v in examples.spans(number, number + 1).items()}
    text = examples.text(number)
    kept = _kept(plan, number, len(ids))
    chat = _of_chat(examples, number)
    places = examples.document_positions(number, number + 1).get("document_position")
    tokens = []
    for position, token in enumerate(ids):
        start = spans["char_start"][position] if spans else None
        end = spans["char_end"][position] if spans else None
        covered = text[start:end] if spans else ""
        probes = tuple(probe for probe, positions in kept.items() if position in positions)
        tokens.append(
            TokenView(
                position=position,
                id=token,
                text=covered or _spelled(plan, token),
                char_start=start,
                char_end=end,
                probes=probes,
                document_position=None if places is None else int(places[position]),
                **(chat[position] if chat else {}),
            )
        )
    columns = {c.type.name: c.value(0) for c in examples.columns(number, number + 1)}
    lies = examples.places(number, number + 1) | examples.pieces(number, number + 1)
    lies.pop("document_char_start", None)
    return ExampleView(
        number=number,
        id=examples.id(number),
        text=text,
        columns=columns,
        tokens=tuple(tokens),
        **{name: int(values[0]) for name, values in lies.items()},
    )


def _of_chat(examples: Examples, number: int) -> list[dict[str, Any]]:
    """Say whose each token is; nothing where the text is no chat."""
    found = examples.chat_columns(number, number + 1)
    if not found:
        return []
    role, turns, contents = found["role"], found["turn"], found["is_content"]
    assert isinstance(role, Named)
    plain = zip(role.codes, np.asarray(turns), np.asarray(contents), strict=True)
    return [
        {"role": role.names[code], "turn": int(turn), "is_content": bool(content)}
        for code, turn, content in plain
    ]


def _kept(plan: Plan, number: int, n_tokens: int) -> dict[int, set[int]]:
    """Give the positions that each probe keeps of an example."""
    found: dict[int, set[int]] = {}
    for probe, rule in enumerate(plan.config.probes):
        name = Choice.of(rule.positions).name
        chosen = () if name == GENERATED else plan.choices.positions(name, number, n_tokens)
        found[probe] = {int(position) for position in chosen}
    return found


def _spelled(plan: Plan, token: int) -> str:
    if plan.tokenizer is None:
        return f"<{token}>"
    found: str = plan.tokenizer.decode([token])
    return found
