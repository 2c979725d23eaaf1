"""What checking found: a graph that can run, scope by scope."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from telepatch_protocol.causality import Schedule
from telepatch_protocol.graph import Graph, Invoke, Node
from telepatch_protocol.inputs import Input
from telepatch_protocol.meta import Meta
from telepatch_protocol.sites import Found

Value = object
"""What is known of a value: a `Meta`, one per output name, or the number, text or list that a constant is; a `Column`
where rows of data are no tensor together."""

Key = tuple[object, ...]
"""What two elements of a `map` have in common that are planned alike: numbers in sites, and sizes of inputs."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A graph or sub-graph that can be evaluated.

    Attributes:
        order: its nodes, each after those it needs.
        values: what is known of the values of its own nodes, bound names and, at the top, constants.
        places: where the site of each `get` and `set` lies; several for a starred one.
        inputs: sizes of its own invokes.
        invokes: its own invokes.
        schedule: which reads and writes belong to which forward.
        between: its nodes that happen only between forwards.
        tracked: its nodes of which gradients are asked.
        out: what is known of its outputs.
        bodies: the scopes of its nodes' sub-graphs, by the sub-graph's name and what sets its elements apart.
        counts: how many elements each of these stands for, at most.
        beside: bytes that a node holds as long as it is evaluated, besides its values.
        backward: the nodes inside its gradients, in order.
        flops: floating-point operations of its own nodes, forwards and sub-graphs not counted.
    """

    order: tuple[Node, ...]
    values: Mapping[str, Value]
    places: Mapping[str, tuple[Found, ...]]
    inputs: Mapping[str, Input]
    invokes: Mapping[str, Invoke]
    schedule: Schedule
    between: frozenset[str]
    tracked: frozenset[str]
    out: Mapping[str, Meta]
    bodies: Mapping[str, Mapping[Key, Scope]]
    counts: Mapping[str, Mapping[Key, int]]
    beside: Mapping[str, int]
    backward: Mapping[str, tuple[Node, ...]]
    flops: float


@dataclass(frozen=True, slots=True)
class Checked:
    """A whole document that can run.

    Attributes:
        graph: the document.
        scope: its top level.
        saves: shape and dtype of what comes back, by name.
        warnings: what is allowed but surely not meant.
    """

    graph: Graph
    scope: Scope
    saves: Mapping[str, Meta]
    warnings: tuple[str, ...]

    @property
    def inputs(self) -> Mapping[str, Input]:
        """Sizes of the invokes of the top level."""
        return self.scope.inputs

    @property
    def schedule(self) -> Schedule:
        """Forwards of the top level."""
        return self.scope.schedule

    @property
    def values(self) -> Mapping[str, Value]:
        """Values of the top level."""
        return self.scope.values


def places_in(scope: Scope) -> Iterator[tuple[Found, ...]]:
    """Where the sites of a scope lie, and those of every sub-graph inside it."""
    yield from scope.places.values()
    for bodies in scope.bodies.values():
        for body in bodies.values():
            yield from places_in(body)


def exact(graph: Graph) -> bool:
    """Whether the job runs alone and bit for bit like PyTorch hooks."""
    return graph.options.exact or graph.options.isolate
