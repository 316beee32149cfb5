"""Instrumenting: a template that says, while it writes, which message it is at.

Knows Jinja's syntax trees. What is put in writes marks and nothing else, so that what the template
itself writes is as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import nodes
from jinja2.environment import Environment, Template

from probekit.inputs.chats.marks import CLOSES, NO_TURN, OPENS, SOME_TURN, turn_mark

_TURN, _LEFT, _OPENS, _CLOSES = "chat_turn", "chat_left", "chat_opens", "chat_closes"
_ASKED = "add_generation_prompt"


class Following:
    """Which message a template is at while it runs.

    Its methods are what instrumented templates call; each gives a mark, or nothing.
    """

    def __init__(self) -> None:
        self._turns: dict[int, int] = {}
        self._loops: list[list[int]] = []  # [loop, turn], the innermost last

    def begin(self, messages: Sequence[dict[str, Any]]) -> None:
        """Follow a rendering of messages."""
        self._turns = {id(message): turn for turn, message in enumerate(messages)}
        self._loops = []

    def turn(self, loop: int, value: object) -> str:
        """Say that a loop goes on with a value, which may be a message."""
        turn = self._turns.get(id(value))
        if turn is None:
            if not isinstance(value, dict) or "role" not in value:
                return ""
            turn = SOME_TURN
        if self._loops and self._loops[-1][0] == loop:
            self._loops[-1][1] = turn
        else:
            self._loops.append([loop, turn])
        return turn_mark(turn)

    def left(self, loop: int) -> str:
        """Say that a loop is over."""
        if not self._loops or self._loops[-1][0] != loop:
            return ""
        self._loops.pop()
        return turn_mark(self._loops[-1][1] if self._loops else NO_TURN)

    def functions(self) -> dict[str, Any]:
        """Give what instrumented templates call, by name."""
        return {
            _TURN: self.turn,
            _LEFT: self.left,
            _OPENS: lambda: OPENS,
            _CLOSES: lambda: CLOSES,
        }


def instrument(environment: Environment, source: str, following: Following) -> Template:
    """Compile a template that marks its turns."""
    tree = environment.parse(source)
    loops = [*tree.find_all(nodes.For)]
    for number, loop in enumerate(loops):
        _mark_loop(loop, number)
    for one in [*_lists(tree)]:
        one[:] = [new for old in one for new in _with_end(old)]
    for condition in [*tree.find_all(nodes.If)]:
        names = nodes.Tuple([condition.test], "load").find_all(nodes.Name)  # the test itself, too
        if any(name.name == _ASKED for name in names):
            for body in (condition.body, condition.else_):
                _enclose(body, condition.lineno)
    tree.set_environment(environment)
    code = environment.compile(tree)
    variables = environment.make_globals(following.functions())
    return environment.template_class.from_code(environment, code, variables)


def literals(environment: Environment, source: str) -> list[str]:
    """Give the texts that a template writes or looks for as constants, longest first."""
    tree = environment.parse(source)
    keys = {id(n.arg) for n in tree.find_all(nodes.Getitem)}  # message["role"] looks for no text
    found = {n.value for n in tree.find_all(nodes.Const) if id(n) not in keys}
    return sorted({s for s in found if isinstance(s, str) and s}, key=len, reverse=True)


def _mark_loop(loop: nodes.For, number: int) -> None:
    """Mark each round: of `for message in ...`, or from where `messages[i]` gets a name."""
    if isinstance(loop.target, nodes.Name):
        name = nodes.Name(loop.target.name, "load")
        loop.body.insert(0, _output(_TURN, loop.lineno, nodes.Const(number), name))
    for body in [*_lists_within(loop)]:
        body[:] = [new for old in body for new in _with_turn(old, number)]
    loop.chat_number = number  # type: ignore[attr-defined]


def _with_turn(node: nodes.Node, loop: int) -> Iterator[nodes.Node]:
    yield node
    if (
        isinstance(node, nodes.Assign)
        and isinstance(node.target, nodes.Name)
        and isinstance(node.node, nodes.Getitem)
    ):
        name = nodes.Name(node.target.name, "load")
        yield _output(_TURN, node.lineno, nodes.Const(loop), name)


def _with_end(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    number = getattr(node, "chat_number", None)
    if number is not None:
        yield _output(_LEFT, node.lineno, nodes.Const(number))


def _lists(node: nodes.Node) -> Iterator[list[nodes.Node]]:
    """Give every list of statements inside of a node."""
    for name in ("body", "else_"):
        body = getattr(node, name, None)
        if isinstance(body, list):
            yield body
    for child in node.iter_child_nodes():
        yield from _lists(child)


def _lists_within(loop: nodes.For) -> Iterator[list[nodes.Node]]:
    """Give the lists of statements of a loop, without those of loops inside of it."""
    waiting: list[nodes.Node] = [loop]
    while waiting:
        node = waiting.pop()
        for name in ("body", "else_"):
            body = getattr(node, name, None)
            if isinstance(body, list):
                yield body
        waiting += [n for n in node.iter_child_nodes() if not isinstance(n, nodes.For)]


def _enclose(body: list[nodes.Node], line: int) -> None:
    if body:
        body.insert(0, _output(_OPENS, line))
        body.append(_output(_CLOSES, line))


def _output(function: str, line: int, *arguments: nodes.Expr) -> nodes.Output:
    call = nodes.Call(nodes.Name(function, "load"), [*arguments], [], None, None)
    made = nodes.Output([call])
    made.set_lineno(line)
    return made
