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
_OWN, _OWNED = "chat_own", "chat_owned"
_ASKED = "add_generation_prompt"
_SYSTEM = ("system", "developer")


class Following:
    """Which message a template is at while it runs.

    Its methods are what instrumented templates call; each gives a mark, or nothing.
    """

    def __init__(self) -> None:
        self._turns: dict[int, int] = {}
        self._loops: list[list[int]] = []  # [loop, turn], the innermost last
        self._has_system = False

    def begin(self, messages: Sequence[dict[str, Any]]) -> None:
        """Follow a rendering of messages."""
        self._turns = {id(message): turn for turn, message in enumerate(messages)}
        self._loops = []
        self._has_system = bool(messages) and messages[0].get("role") in _SYSTEM

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

    def own(self, turn: int) -> str:
        """Say that a system text of the template's own begins, or is over: `turn` is what follows.

        It is one in the first message's round, where that message is none.
        """
        is_first = bool(self._loops) and self._loops[-1][1] == 0
        return turn_mark(turn) if is_first and not self._has_system else ""

    def functions(self) -> dict[str, Any]:
        """Give what instrumented templates call, by name."""
        return {
            _TURN: self.turn,
            _LEFT: self.left,
            _OPENS: lambda: OPENS,
            _CLOSES: lambda: CLOSES,
            _OWN: lambda: self.own(NO_TURN),
            _OWNED: lambda: self.own(0),
        }


def instrument(environment: Environment, source: str, following: Following) -> Template:
    """Compile a template that marks its turns."""
    tree = environment.parse(source)
    loops = [*tree.find_all(nodes.For)]
    own = [body for loop in loops for body in _own_texts(loop)]
    for number, loop in enumerate(loops):
        _mark_loop(loop, number)
    for one in [*_lists(tree)]:
        one[:] = [new for old in one for new in _with_end(old)]
    for body in own:
        _enclose(body, body[0].lineno, _OWN, _OWNED)
    for condition in [*tree.find_all(nodes.If)]:
        names = nodes.Tuple([condition.test], "load").find_all(nodes.Name)  # the test itself, too
        if any(name.name == _ASKED for name in names):
            for body in (condition.body, condition.else_):
                _enclose(body, condition.lineno, _OPENS, _CLOSES)
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


def _own_texts(loop: nodes.For) -> Iterator[list[nodes.Node]]:
    """Give what a loop writes, by conditions, of a system text that reads no message."""
    read = {"messages", *(name.name for name in _names(loop.target))}
    for one in loop.find_all(nodes.Assign):
        if any(name.name in read for name in _names(one.node)):
            read |= {name.name for name in _names(one.target)}
    waiting: list[nodes.Node] = [*loop.body]
    while waiting:
        node = waiting.pop()
        bodies = [node.body, node.else_] if isinstance(node, nodes.If) else []
        own = [body for body in bodies if _is_own_system(body, read)]
        yield from own
        inside = [id(child) for body in own for child in body]
        children = node.iter_child_nodes() if not isinstance(node, nodes.For) else ()
        waiting += [child for child in children if id(child) not in inside]


def _is_own_system(body: Sequence[nodes.Node], read: set[str]) -> bool:
    written = [*nodes.Template([*body]).find_all(nodes.Output)]
    if any(name.name in read for output in written for name in _names(output)):
        return False
    texts = [t.data for output in written for t in output.find_all(nodes.TemplateData)]
    texts += [str(c.value) for output in written for c in output.find_all(nodes.Const)]
    return any("sys" in text.lower() for text in texts)  # <|system|>, <<SYS>>


def _names(node: nodes.Node) -> Iterator[nodes.Name]:
    """Give every name in an expression, itself too."""
    yield from nodes.Output([node]).find_all(nodes.Name)


def _enclose(body: list[nodes.Node], line: int, opens: str, closes: str) -> None:
    if body:
        body.insert(0, _output(opens, line))
        body.append(_output(closes, line))


def _output(function: str, line: int, *arguments: nodes.Expr) -> nodes.Output:
    call = nodes.Call(nodes.Name(function, "load"), [*arguments], [], None, None)
    made = nodes.Output([call])
    made.set_lineno(line)
    return made
