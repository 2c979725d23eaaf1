"""Sub-graphs: which nodes carry them, which names they bind, and what is evaluated beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from telepatch_protocol.fitting import arguments_of_fit, sub_graphs
from telepatch_protocol.graph import (
    Arg,
    Cond,
    Each,
    Fit,
    Generate,
    Generating,
    Grad,
    Graph,
    Invoke,
    Log,
    Map,
    Node,
    Repeat,
    Run,
    SubGraph,
)
from telepatch_protocol.structural import structural

MAX_DEPTH = 8
"""How deep sub-graphs may nest."""

COMPUTED_TIMES = 1_000
"""How often a repeat runs at most whose n is computed and that does not say how large it may be."""

STEP = "step"
"""The name under which the body of a `repeat` knows how often it has run before, and a generation's `each` its step."""

VALUE = "value"
"""The one output of a branch of a `cond` that stands for the value itself."""


@dataclass(frozen=True, slots=True)
class Body:
    """A sub-graph of a node.

    Attributes:
        name: of the node, with the branch of a `cond`.
        graph: the sub-graph.
        binds: names that it sees and nobody outside does.
        tail: what is evaluated in it after its nodes, where its outputs have names too.
    """

    name: str
    graph: SubGraph
    binds: frozenset[str] = frozenset()
    tail: tuple[Arg, ...] = ()


def bodies_of(node: Node) -> tuple[Body, ...]:
    """The sub-graphs of a node, none for most."""
    if isinstance(node, Map):
        return (Body(node.id, node.body, frozenset(node.over), tuple(node.emit.values())),)
    if isinstance(node, Repeat):
        return (Body(node.id, node.body, frozenset({*node.carry, STEP}), (node.while_, *node.emit.values())),)
    if isinstance(node, Cond):
        branches = (("then", node.then), ("else", node.else_))
        return tuple(Body(f"{node.id}.{name}", one) for name, one in branches if isinstance(one, SubGraph))
    if isinstance(node, Fit):
        return tuple(Body(*part) for part in sub_graphs(node))
    if isinstance(node, Generating):
        return (each_body(node.id, node.each),)
    if isinstance(node, Grad) and node.body is not None:
        return (Body(node.id, node.body),)
    return ()


def each_body(run: str, each: Each) -> Body:
    """The sub-graph of a generation."""
    tail = (*each.carry.values(), each.stop, *each.emit.values())
    graph = SubGraph.model_construct(runs=(), nodes=each.nodes, out=each.out)
    return Body(run, graph, frozenset({*each.state, STEP}), tail)


def arguments_of(node: Node) -> tuple[Arg, ...]:
    """What a log tells, or a node with sub-graphs takes from where it stands, beside what its sub-graphs take."""
    if isinstance(node, Map):
        return tuple(node.over.values())
    if isinstance(node, Repeat):
        return (node.n, *node.carry.values())
    if isinstance(node, Cond):
        return (node.if_, *(one for one in (node.then, node.else_) if not isinstance(one, SubGraph)))
    if isinstance(node, Fit):
        return arguments_of_fit(node)
    if isinstance(node, Generating):
        return (*inputs_of(node.invoke), *settings_of(node.generate), *node.each.state.values())
    if isinstance(node, Log):
        return tuple(node.values.values())
    return (node.of, *node.wrt) if isinstance(node, Grad) else ()


def inputs_of(invoke: Invoke) -> list[Arg]:
    """What an invoke takes as its input."""
    chat = invoke.messages if isinstance(invoke.messages, str) else None
    return [invoke.text, invoke.ids, chat, *(invoke.inputs or {}).values()]


def settings_of(generate: Generate) -> list[Arg]:
    """What the settings of a generation are."""
    return list(dict(generate).values())


@structural
def all_nodes(graph: Graph | SubGraph) -> tuple[Node, ...]:
    """Every node, at any depth, those of sub-graphs after the node that carries them, those of runs first."""
    return tuple(_walked(graph))


def _walked(graph: Graph | SubGraph) -> Iterator[Node]:
    stack: list[Iterator[Node]] = [_own_nodes(graph)]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
            continue
        yield node
        stack.extend(_own_nodes(body.graph) for body in reversed(bodies_of(node)))


@structural
def trains(graph: Graph | SubGraph) -> bool:
    """Whether it has a `fit`; such a job may take so long that it runs slice by slice."""
    return any(isinstance(node, Fit) for node in all_nodes(graph))


def _own_nodes(graph: Graph | SubGraph) -> Iterator[Node]:
    for run in graph.runs:
        yield from run.each.nodes if run.each is not None else ()
    yield from graph.nodes


@structural
def all_runs(graph: Graph | SubGraph) -> tuple[Run, ...]:
    """Every run, at any depth."""
    return (*graph.runs, *(run for node in all_nodes(graph) for body in bodies_of(node) for run in body.graph.runs))


def logs_in(graph: Graph | SubGraph) -> Iterator[Log]:
    """Every log, at any depth."""
    return (node for node in all_nodes(graph) if isinstance(node, Log))


@structural
def has_bodies(graph: Graph | SubGraph) -> bool:
    """Whether any node of it carries sub-graphs."""
    return any(bodies_of(node) for node in graph.nodes)


def has_runs(graph: SubGraph) -> bool:
    """Whether evaluating it takes forwards."""
    return bool(all_runs(graph))
