"""Scopes in the making: the document and each of its sub-graphs, with what they hold and what they give out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from telepatch.lines import Place
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.graph import Generating, Invoke, Node, Reduction, Run, SubGraph, Written
from telepatch_protocol.lowering import written
from telepatch_protocol.meta import Meta
from telepatch_protocol.sizes import Dim

Kind = Literal["job", "map", "repeat", "cond", "grad", "fit", "aside", "generate"]


@dataclass
class Forward:
    """One run in the making: the inputs of one trace."""

    id: str
    invokes: list[Invoke] = field(default_factory=list)


@dataclass(eq=False)
class Scope:
    """A graph or sub-graph in the making.

    Attributes:
        kind: what carries it.
        node: id of the node that carries it; empty for the document itself.
        what: as the author opened it, such as ``sweep``.
        parent: the scope around it.
        level: which of the checker's levels it is.
        opened: the author's line.
        make: its node, from what it holds; None for the document.
        lead: axes that its values get in front once it is over; None for a number of elements that is not known.
        forwards: its runs.
        forward: the run of the trace that is open in it.
        invoke: the input whose sites are read and written now.
        out: what it gives out, by name.
        reduce: how the elements of each output become one, where that is not to stack them.
        span: at which steps of a generation its sites are read and written now; at all of them where it is None.
        fixed: names of outputs that are not stacked, such as what a repeat carries.
        back: the author's block, where it is one of gradients.
        closed: whether its block is over.
    """

    kind: Kind
    node: str = ""
    what: str = "trace"
    parent: Scope | None = None
    level: int = 0
    opened: Place | None = None
    make: Callable[[Scope], Node] | None = None
    lead: tuple[Dim, ...] = ()
    forwards: list[Forward] = field(default_factory=list)
    forward: Forward | None = None
    invoke: str | None = None
    out: dict[str, str] = field(default_factory=dict)
    reduce: dict[str, Reduction] = field(default_factory=dict)
    span: str | int | None = None
    fixed: frozenset[str] = frozenset()
    back: object = None
    closed: bool = False
    _nodes: dict[str, tuple[int, int, Node]] = field(default_factory=dict)

    def take(self, node: Node, slot: int) -> None:
        """Hold a node; one of the same id is replaced and keeps its place."""
        at, order, _ = self._nodes.get(node.id, (slot, len(self._nodes), node))
        self._nodes[node.id] = (at, order, node)

    def drop(self, id: str) -> None:
        """Hold a node no longer."""
        del self._nodes[id]

    def nodes(self) -> tuple[Written, ...]:
        """Its nodes, as they stand in the document."""
        return tuple(node for node in self._ordered() if not isinstance(node, Generating))

    def runs(self) -> tuple[Run, ...]:
        """Its runs, generations last; a trace without any input is none."""
        forwards = [Run(id=one.id, invokes=tuple(one.invokes)) for one in self.forwards if one.invokes]
        return (*forwards, *(written(node) for node in self._ordered() if isinstance(node, Generating)))

    def _ordered(self) -> list[Node]:
        return [node for _, _, node in sorted(self._nodes.values(), key=lambda entry: entry[:2])]

    def graph(self) -> SubGraph:
        """It as a sub-graph."""
        return SubGraph(runs=self.runs(), nodes=self.nodes(), out=self.out)

    def release(self) -> None:
        """Let go of what is not needed once the document is made."""
        self._nodes = {}
        self.forwards = []
        self.make = self.back = None

    def around(self) -> Iterator[Scope]:
        """It and the scopes around it, from the inside out."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def sees(self, other: Scope) -> bool:
        """Whether what was made in `other` can be referred to in here."""
        return any(scope is other for scope in self.around())

    def given(self, ref: str, how: Reduction = "stack") -> str | None:
        """The reference by which the scope around it knows one of its values, if it was given out."""
        for name, found in self.out.items():
            if found == f"${ref}" and name not in self.fixed and self.reduce.get(name, "stack") == how:
                return f"{self.node}.{name}"
        return None

    def give(self, ref: str, how: Reduction = "stack", name: str | None = None) -> str:
        """Give one of its values out; says by which reference the scope around it knows the value.

        Raises:
            BadArgument: a name that another value has.
        """
        known = self.given(ref, how) if name is None else None
        if known is not None:
            return known
        chosen = name or next(one for one in (f"o{at}" for at in range(len(self.out) + 1)) if one not in self.out)
        if self.out.get(chosen, f"${ref}") != f"${ref}":
            raise BadArgument(f"this {self.what} gives out another value as '{chosen}' already")
        self.out[chosen] = f"${ref}"
        if how != "stack":
            self.reduce[chosen] = how
        return f"{self.node}.{chosen}"

    def outside(self, meta: Meta) -> Meta:
        """What the scope around it knows of a value that it stacks."""
        return Meta(None if meta.shape is None else (*self.lead, *meta.shape), meta.dtype)
