"""Owning: whose each character of a rendering is, content or not.

Knows where contents stand and where a template's loop came to each message; nothing of how that was
found. What a template writes while it is at a message is that message's turn. What it writes
outside of any message's round goes with the content that it stands beside; before all it is
nobody's, and so is the token by which a text begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from probekit.inputs.chats.finding import Found, Unit
from probekit.inputs.chats.marks import NO_TURN, SOME_TURN, Cut
from probekit.inputs.chats.segments import NOBODY, Segment, merged

Owned = tuple[int, int, int, bool]  # begin, end, turn, whether it is content


def segments_of(
    text: str,
    found: Found,
    units: Sequence[Unit],
    *,
    n_first: int,
    prompt: int | None,
    n_turns: int,
) -> tuple[Segment, ...]:
    """Divide a rendering.

    Args:
        text: the rendering.
        found: where contents stand.
        units: the contents.
        n_first: characters of the token by which the text begins, where the template writes it.
        prompt: where the generation prompt begins; None where there is none.
        n_turns: how many messages there are; the number of the generation prompt's turn.
    """
    contents = sorted(
        (begin, end, units[n].turn) for n, spans in found.spans.items() for begin, end in spans
    )
    ends = len(text) if prompt is None else prompt
    owned: list[Owned] = []
    if n_first and (not contents or contents[0][0] >= n_first):
        owned.append((0, n_first, NOBODY, False))
    begin = owned[0][1] if owned else 0
    for low, high, turn in _regions(found.cuts, begin, ends):
        inside = [c for c in contents if low <= c[0] < high]
        owned += _of_region(low, high, turn, inside, owned, is_followed=found.cuts is not None)
    if prompt is not None:
        owned.append((prompt, len(text), n_turns, False))
    return merged(owned)


def prompt_of(text: str, without: str | None, cuts: Sequence[Cut] | None, last: int) -> int | None:
    """Find where a generation prompt begins; None where there is none.

    Args:
        text: the rendering.
        without: the rendering without a generation prompt; None where the template refuses that.
        cuts: where the template says that it writes for one.
        last: where the last content ends.
    """
    if without is not None and text.startswith(without) and len(without) >= last:
        return len(without) if len(without) < len(text) else None
    opened = (cut.at for cut in cuts or () if cut.turn is None and cut.opens and cut.at >= last)
    begin = next(opened, None)
    return begin if begin is not None and begin < len(text) else None


def _regions(cuts: Sequence[Cut] | None, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Give the stretches of a rendering that were written in one message's round, or in none."""
    points = [(begin, NO_TURN)]
    for cut in cuts or ():
        if cut.turn is None or cut.at > end:
            continue
        if cut.at <= points[-1][0]:
            points[-1] = (points[-1][0], cut.turn)
        elif points[-1][1] != cut.turn or cut.turn == SOME_TURN:  # each is another's
            points.append((cut.at, cut.turn))
    for (low, turn), (high, _) in pairwise([*points, (end, NO_TURN)]):
        if low < high:
            yield low, high, turn


def _of_region(
    low: int,
    high: int,
    turn: int,
    contents: Sequence[tuple[int, int, int]],
    before: Sequence[Owned],
    *,
    is_followed: bool,
) -> Iterator[Owned]:
    last = before[-1][2] if before else NOBODY
    at = low
    for number, (begin, end, own) in enumerate(contents):
        beside = own if number == 0 or not is_followed else last
        yield at, begin, turn if turn >= 0 else beside, False
        yield begin, end, own, True
        last, at = own, end
    yield at, high, turn if turn >= 0 else last, False
