"""What a graph takes from outside itself: values of other jobs, attached tensors, and uploads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from telepatch_broker.jobs import Source
from telepatch_protocol.data import is_digest
from telepatch_protocol.graph import Call, Graph, Module, Node, Set, SubGraph
from telepatch_protocol.order import users
from telepatch_protocol.structural import structural
from telepatch_protocol.subgraphs import all_nodes, all_runs, arguments_of, bodies_of, inputs_of


@dataclass(frozen=True)
class Uses:
    """What a graph takes from outside.

    Attributes:
        parents: jobs whose saved values it uses, and the first place where it does.
        tensors: names of attached tensors.
        data: digests of uploads, and the first place where it uses them.
    """

    parents: dict[str, Source]
    tensors: frozenset[str]
    data: dict[str, Source]


def uses_of(graph: Graph) -> Uses:
    """What a graph takes from outside; forms that are malformed are left for the checker to refuse."""
    parents: dict[str, Source] = {}
    data: dict[str, Source] = {}
    tensors: set[str] = set()
    for form, user in (*_of_constants(graph), *_written(graph)):
        job, tensor, digest = form.get("result"), form.get("tensor"), form.get("data")
        if isinstance(tensor, str):
            tensors.add(tensor)
        if isinstance(job, str) and job not in parents:
            parents[job] = Source(user, *graph.place_of(user))
        if isinstance(digest, str) and is_digest(digest) and digest not in data:
            data[digest] = Source(user, *graph.place_of(user))
    return Uses(parents, frozenset(tensors), data)


def _of_constants(graph: Graph) -> Iterator[tuple[dict[str, JsonValue], str | None]]:
    """Every form among the constants, with the id of the node or invoke that uses it first."""
    forms = {name: value for name, value in graph.constants.items() if isinstance(value, dict)}
    known = _users(graph) if forms else {}
    yield from ((form, known.get(name)) for name, form in forms.items())


_users = structural(users)


@structural
def _written(graph: Graph | SubGraph) -> list[tuple[dict[str, JsonValue], str]]:
    """Every form among the inputs and arguments themselves, with the id of the invoke or node."""
    inputs = [(invoke.id, inputs_of(invoke)) for run in all_runs(graph) for invoke in run.invokes]
    arguments = [(node.id, _arguments(node)) for node in all_nodes(graph)]
    return [(form, user) for user, values in (*inputs, *arguments) for form in _inside(values)]


def _arguments(node: Node) -> list[JsonValue]:
    """Everything in a node that may hold a constant."""
    if isinstance(node, Call | Module):
        return [*node.args, *node.kwargs.values()]
    if isinstance(node, Set):
        return [node.value]
    outputs = [one for body in bodies_of(node) for one in (*body.graph.out.values(), *body.tail)]
    return [*arguments_of(node), *outputs]


def _inside(values: list[JsonValue]) -> Iterator[dict[str, JsonValue]]:
    stack = list(values)
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
        elif isinstance(value, list):
            stack.extend(one for one in value if isinstance(one, dict | list))
