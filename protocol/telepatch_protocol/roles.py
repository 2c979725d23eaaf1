"""What checking asks of each constant of a document, as its structure alone tells.

Of most constants everything may matter. Of an index only whether its axis is long enough, of a number that is added or
multiplied only its type, of an input only its size: documents that differ in nothing else need not be checked again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from pydantic import JsonValue

from telepatch_protocol import refs
from telepatch_protocol.graph import Call, Get, Graph, Node, Set
from telepatch_protocol.ops import find_op

Role = Literal["index", "number", "input", "value"]
"""An element of an index, an operand, token ids or text, or anything: what a constant is there for."""

_ARITHMETIC = frozenset({"add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge"})
"""Operations that ask no more of a floating-point number than that it is one."""

_USE = re.compile(rf"\$({refs.NAME})|\{{({refs.NAME})\}}", re.ASCII)
_FORM = re.compile(r'"(?:result|tensor|data)": ?["\[]')


class Open(Exception):
    """What is found of a document holds for no other one."""


def roles_of(graph: Graph, text: str) -> dict[str, Role]:
    """What each constant is there for; "value" unless every use of it is of the same other kind.

    Args:
        graph: the document.
        text: its structure, as JSON.

    Raises:
        Open: forms such as ``{result: ...}`` stand among the arguments themselves, or edits are not in place: then
            constants are not all that may differ.
        GraphError: it names an operation that there is not.
    """
    if graph.edits or _FORM.search(text):
        raise Open
    used = Counter(name or hole for name, hole in _USE.findall(text))
    found: dict[str, list[Role]] = {}
    for name, role in _special(graph):
        found.setdefault(name, []).append(role)
    return {
        name: own[0] if (own := found.get(name, [])) and len(own) == used[name] and len(set(own)) == 1 else "value"
        for name in graph.constants
    }


def _special(graph: Graph) -> Iterator[tuple[str, Role]]:
    """Uses at the top level of which not everything matters."""
    for run in graph.runs:
        if run.generate is None and run.each is None:
            for invoke in run.invokes:
                yield from _used((invoke.ids, invoke.text), "input")
    for node in graph.nodes:
        yield from _of_node(node)


def _of_node(node: Node) -> Iterator[tuple[str, Role]]:
    if isinstance(node, Get | Set):
        yield from _used(node.index or (), "index")
    if isinstance(node, Set):
        yield from _used((node.value,), "number")
    if isinstance(node, Call):
        op = find_op(node.op)
        given = [*zip(op.params, node.args, strict=False)]
        given += [(op.by_name[name], arg) for name, arg in node.kwargs.items() if name in op.by_name]
        for param, arg in given:
            if param.kind == "index" and isinstance(arg, list):
                yield from _used(arg, "index")
            elif param.kind == "operand" and node.op in _ARITHMETIC:
                yield from _used((arg,), "number")


def _used(values: tuple[JsonValue, ...] | list[JsonValue], role: Role) -> Iterator[tuple[str, Role]]:
    for value in values:
        ref = refs.parse(value)
        if ref is not None and ref.output is None:
            yield ref.id, role
