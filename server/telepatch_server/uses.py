"""What a graph takes from outside itself: values of other jobs, and attached tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from telepatch_broker.jobs import Source
from telepatch_protocol.graph import Call, Graph, Invoke, Module, Node, Set
from telepatch_protocol.order import users


@dataclass(frozen=True)
class Uses:
    """What a graph takes from outside.

    Attributes:
        parents: jobs whose saved values it uses, and the first place where it does.
        tensors: names of attached tensors.
    """

    parents: dict[str, Source]
    tensors: frozenset[str]


def uses_of(graph: Graph) -> Uses:
    """What a graph takes from outside; forms that are malformed are left for the checker to refuse."""
    parents: dict[str, Source] = {}
    tensors: set[str] = set()
    for form, user in _forms(graph):
        job, tensor = form.get("result"), form.get("tensor")
        if isinstance(tensor, str):
            tensors.add(tensor)
        if isinstance(job, str) and job not in parents:
            parents[job] = Source(user, *graph.place_of(user))
    return Uses(parents, frozenset(tensors))


def _forms(graph: Graph) -> Iterator[tuple[dict[str, JsonValue], str | None]]:
    """Every constant form, with the id of the node or invoke that uses it."""
    forms = {name: value for name, value in graph.constants.items() if isinstance(value, dict)}
    known = users(graph) if forms else {}
    for name, form in forms.items():
        yield form, known.get(name)
    for run in graph.runs:
        for invoke in run.invokes:
            for form in _inside(_inputs(invoke)):
                yield form, invoke.id
    for node in graph.nodes:
        for form in _inside(_arguments(node)):
            yield form, node.id


def _inputs(invoke: Invoke) -> list[JsonValue]:
    messages = invoke.messages if isinstance(invoke.messages, str) else None  # literal ones hold no references
    return [invoke.text, invoke.ids, messages, *(invoke.inputs or {}).values()]


def _arguments(node: Node) -> list[JsonValue]:
    if isinstance(node, Call | Module):
        return [*node.args, *node.kwargs.values()]
    return [node.value] if isinstance(node, Set) else []


def _inside(values: list[JsonValue]) -> Iterator[dict[str, JsonValue]]:
    stack = list(values)
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
        elif isinstance(value, list):
            stack.extend(one for one in value if isinstance(one, dict | list))
