"""What a graph gives to its invokes, at any depth, as far as it stands in the document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from telepatch_protocol import refs
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.graph import Fit, Graph, Invoke, Map, SubGraph
from telepatch_protocol.structural import structural
from telepatch_protocol.subgraphs import all_runs, bodies_of


def given(graph: Graph) -> Iterator[tuple[Invoke, JsonValue]]:
    """Each invoke of text, messages or ids with each input that it may take: its own, or every element of the list that
    a map goes over. What is computed, or comes from elsewhere, is left out."""
    for invoke, spans in _invokes(graph):
        if invoke.form == "inputs":
            continue
        value = {"text": invoke.text, "ids": invoke.ids, "messages": invoke.messages}[invoke.form]
        name = _name(value)
        if name in spans:
            elements = _behind(spans[name], graph, spans)
            yield from ((invoke, one) for one in (elements if isinstance(elements, list) else []))
        elif value is not None and (found := _behind(value, graph, {})) is not None:
            yield invoke, found


@structural
def _invokes(graph: Graph | SubGraph) -> list[tuple[Invoke, Mapping[str, JsonValue]]]:
    """Each invoke, at any depth, with what the maps around it go over."""
    found: list[tuple[Invoke, Mapping[str, JsonValue]]] = []
    waiting: list[tuple[Graph | SubGraph, Mapping[str, JsonValue]]] = [(graph, {})]
    while waiting:
        scope, spans = waiting.pop()
        found += [(invoke, spans) for run in scope.runs for invoke in run.invokes]
        inner = [
            (body.graph, {**spans, **node.over} if isinstance(node, Map | Fit) else spans)
            for node in scope.nodes
            for body in bodies_of(node)
        ]
        waiting += reversed(inner)
    return found


def texts(graph: Graph) -> Iterator[tuple[str, str]]:
    """Each text that an invoke may take, with the id of that invoke."""
    for invoke, value in given(graph):
        if invoke.form == "text":
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, str):
                    yield invoke.id, one


def named(graph: Graph) -> Iterator[tuple[Invoke, str, JsonValue]]:
    """Each tensor that stands in the document for an invoke of named tensors, with its name."""
    for run in all_runs(graph):
        for invoke in run.invokes:
            for name, value in (invoke.inputs or {}).items():
                if (found := _behind(value, graph, {})) is not None:
                    yield invoke, name, found


def _behind(value: JsonValue, graph: Graph, spans: Mapping[str, JsonValue]) -> JsonValue:
    """A literal, or the constant behind a name; None for anything else. A name of another map stands for its list."""
    for _ in range(len(spans) + 2):
        name = _name(value)
        if not name:
            return refs.literal(value) if isinstance(value, str) else value
        if name in graph.constants:
            return graph.constants[name]
        value = spans.get(name)
    return None


def _name(value: JsonValue) -> str:
    """The name that a reference is to, empty for what is none."""
    try:
        ref = refs.parse(value)
    except BadArgument:
        return ""
    return "" if ref is None else ref.id
