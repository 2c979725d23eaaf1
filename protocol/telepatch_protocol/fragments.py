"""Edits: fragments of graphs on the sites of one input, with arguments, that are applied to inputs of later graphs.

A fragment reads, computes and writes; it runs nothing, saves nothing, and does not say which input it is about. Its
arguments are names like any other, and stand for something once it is applied.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Annotated

from pydantic import FailFast, Field, JsonValue

from telepatch_protocol import PROTOCOL, refs
from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import BadArgument, GraphError, ProtocolError, TooLarge, UnknownName
from telepatch_protocol.graph import Arg, Fit, Get, Grad, Id, ModelRef, Node, Set, SubGraph, Written, place_in
from telepatch_protocol.order import refs_of
from telepatch_protocol.subgraphs import STEP, bodies_of

MAX_NODES = 2000
"""How many nodes an edit may have, sub-graphs included."""

MAX_BYTES = 256 * 1024
"""How large an edit may be as JSON; tensors are uploads, or results of jobs."""


class Argument(Frozen):
    """What an edit is told when it is applied; without `default` it has to be."""

    default: Arg = None


class Fragment(Frozen):
    """An edit.

    Attributes:
        protocol: version of the document.
        model: whose sites it reads and writes; with a revision, of that one alone.
        arguments: names that stand for what is given when it is applied.
        nodes: what it reads, computes and writes, without any `invoke`.
        constants: as in a graph.
        lines: node id to ``file:line`` of the program that made it.
    """

    protocol: tuple[int, int] = PROTOCOL
    model: ModelRef
    arguments: dict[Id, Argument] = Field(default_factory=dict)
    nodes: Annotated[tuple[Written, ...], FailFast()]
    constants: dict[Id, JsonValue] = Field(default_factory=dict)
    lines: dict[str, str] = Field(default_factory=dict)

    @cached_property
    def size(self) -> tuple[int, int]:
        """How many nodes it has at any depth, and about how many bytes these take."""
        return sum(1 for _ in inside(self.nodes)), sum(len(node.model_dump_json()) for node in self.nodes)

    def to_json(self) -> str:
        """The document as JSON text, defaults left out; `telepatch_protocol.wire.decode_edit` reads it back."""
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))

    def to_dict(self) -> dict[str, JsonValue]:
        """The document as JSON values, defaults left out."""
        found = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return {"protocol": list(self.protocol)} | {key: value for key, value in found.items() if key != "protocol"}


def inside(nodes: Iterable[Node]) -> Iterator[Node]:
    """Nodes, and those of their sub-graphs."""
    stack: list[Iterator[Node]] = [iter(nodes)]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
            continue
        yield node
        stack.extend(iter(body.graph.nodes) for body in bodies_of(node))


def check_form(fragment: Fragment) -> None:
    """Refuse what no edit can be, whatever its model.

    Raises:
        GraphError: naming the node, with its author's line.
    """
    if fragment.protocol < (PROTOCOL[0], 1):
        raise ProtocolError(f"edits are there since protocol {[PROTOCOL[0], 1]}; found {list(fragment.protocol)}")
    count = fragment.size[0]
    if count > MAX_NODES:
        raise TooLarge(f"the edit has {count} nodes; an edit has at most {MAX_NODES}")
    for name, argument in fragment.arguments.items():
        _check_default(name, argument.default)
    _check_ids(fragment)
    known = {node.id for node in fragment.nodes} | fragment.arguments.keys() | fragment.constants.keys()
    for node in fragment.nodes:
        try:
            _check_node(node, known)
        except GraphError as error:
            file, line = place_in(fragment.lines, error.node or node.id)
            raise error.at(node=node.id, file=file, line=line) from None
    if not any(isinstance(node, Set) for node in fragment.nodes):
        raise BadArgument("the edit writes to no site, so applying it would change nothing; give it a 'set'")


def _check_default(name: str, default: Arg) -> None:
    if any(True for _ in refs.walk(default)):
        raise BadArgument(f"the default of argument '{name}' refers to a value; a default is a constant")


def _check_ids(fragment: Fragment) -> None:
    named = [*fragment.arguments, *fragment.constants]
    for node in inside(fragment.nodes):
        named += [node.id, *(name for body in bodies_of(node) for name in body.binds - {STEP})]
    twice = [name for name, times in Counter(named).items() if times > 1]
    if twice or STEP in named:
        raise BadArgument(
            f"two things of the edit have the id '{twice[0]}'; ids are unique"
            if twice
            else f"'{STEP}' stands for the count of a repeat, and can be no name of an edit's own"
        )


def _check_node(node: Node, known: set[str]) -> None:
    for one in inside((node,)):
        if isinstance(one, Grad | Fit):
            raise BadArgument(
                f"an edit holds no '{one.kind}': it asks for nothing; take gradients where it is applied", node=one.id
            )
        if isinstance(one, Get | Set) and (one.invoke is not None or one.step is not None):
            what = "invoke" if one.invoke is not None else "step"
            raise BadArgument(
                f"an edit is about the input that it is applied to, at every step; leave out '{what}'", node=one.id
            )
        for body in bodies_of(one):
            _check_body(body.graph, one.id)
    for ref in refs_of(node):
        if ref.id not in known:
            raise UnknownName(f"'{ref}' refers to nothing in the edit; arguments are listed under 'arguments'")


def _check_body(graph: SubGraph, node: str) -> None:
    if graph.runs:
        raise BadArgument("an edit runs nothing: it is applied to an input that a trace runs", node=node)
