"""Edits put in place: a graph whose inputs name edits becomes the plain graph that checker and worker know.

Each application becomes nodes of the scope in which its input runs, under names that nothing else has, in front of the
scope's own: at one site edits come first, in their order. Of a generation they are evaluated at every step.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import JsonValue

from telepatch_protocol import refs
from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import BadArgument, GraphError, NotFound, TelepatchError, TooLarge, UnknownName
from telepatch_protocol.fragments import Fragment, inside
from telepatch_protocol.graph import Applied, Each, Graph, Invoke, Node, Repeat, Run, SubGraph
from telepatch_protocol.refs import Ref
from telepatch_protocol.renaming import Renaming
from telepatch_protocol.structural import structural
from telepatch_protocol.subgraphs import STEP, all_nodes, all_runs, bodies_of
from telepatch_protocol.versions import labelled
from telepatch_protocol.within import Within

MAX_BYTES = 64 * 2**20
"""Bytes that the nodes of all edits of a graph may take once they are in place."""

_QUOTED = re.compile(r"'(\$?)(\w+)((?:\.\w+)?)'")

FrozenT = TypeVar("FrozenT", bound=Frozen)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a node of an expanded graph comes from: a node of an edit, applied to an invoke."""

    edit: str
    node: str
    invoke: str
    line: str | None


@dataclass(frozen=True)
class Expanded:
    """A graph with its edits in place, where their nodes come from, and which edit uses which new constant first."""

    graph: Graph
    origins: Mapping[str, Origin] = field(default_factory=dict)
    constants: Mapping[str, Origin] = field(default_factory=dict)

    def explain(self, error: TelepatchError) -> TelepatchError:
        """An error of a node of an edit, as one of the edit, at the line of the input that it is applied to."""
        origin = self.origins.get(error.node or "")
        error.detail = self.own(error.detail, "" if origin is None else origin.edit)
        if origin is not None:
            where = "" if origin.line is None else f" ({origin.line})"
            error.detail = f"edit '{origin.edit}', node '{origin.node}'{where}: {error.detail}"
            error.node = origin.invoke
            error.file, error.line = self.graph.place_of(origin.invoke)
        error.within = tuple(self._own_part(one) for one in error.within)
        if (cause := self.origins.get(error.parent or "")) is not None:
            error.parent = cause.invoke
        return error

    def _own_part(self, one: Within) -> Within:
        origin = self.origins.get(one.node)
        return one if origin is None else one.model_copy(update={"node": origin.node, "place": origin.line})

    def own(self, detail: str, edit: str) -> str:
        """A message that has nodes by their names in their edits, with the edit where it is another than `edit`."""

        def own(match: re.Match[str]) -> str:
            origin = self.origins.get(match[2])
            if origin is None:
                return match[0]
            name = f"'{match[1]}{origin.node}{match[3]}'"
            return name if origin.edit == edit else f"{name} of edit '{origin.edit}'"

        return _QUOTED.sub(own, detail) if self.origins else detail


def names_of(graph: Graph) -> set[str]:
    """Names of all edits that a graph applies and does not bring along."""
    return {one.name for run in all_runs(graph) for invoke in run.invokes for one in invoke.edits} - graph.edits.keys()


@structural
def applies_edits(graph: Graph | SubGraph) -> bool:
    """Whether it has any to put in place."""
    return any(invoke.edits for run in all_runs(graph) for invoke in run.invokes)


def expand(graph: Graph, fragments: Mapping[str, Fragment | TelepatchError], *, most: int) -> Expanded:
    """Put the edits of a graph in place.

    Args:
        graph: the document.
        fragments: its edits by name, or why one cannot be had.
        most: how many nodes the whole may have.

    Raises:
        GraphError, NotFound: an edit that is not there, is of another model, or is given other arguments than it takes;
            at the line of the input.
        TooLarge: too many nodes, or bytes of them.
    """
    if not applies_edits(graph):
        return Expanded(graph.model_copy(update={"edits": {}}) if graph.edits else graph)
    return _Expansion(graph, fragments, most).done()


class _Expansion:
    """One graph on its way."""

    def __init__(self, graph: Graph, fragments: Mapping[str, Fragment | TelepatchError], most: int) -> None:
        self._graph = graph
        self._fragments = fragments
        self._most = most
        self._taken = set(_names_in(graph))
        self._constants = dict(graph.constants)
        self._shared: dict[str, dict[str, Ref]] = {}
        self._origins: dict[str, Origin] = {}
        self._users: dict[str, Origin] = {}
        self._count = sum(1 for _ in all_nodes(graph))
        self._bytes = 0
        self._applied = 0
        self._spare = 0

    def done(self) -> Expanded:
        """The plain graph."""
        runs, nodes = self._scope(self._graph.runs, self._graph.nodes)
        plain = self._graph.model_copy(update={"runs": runs, "nodes": nodes, "constants": self._constants, "edits": {}})
        return Expanded(labelled(plain), self._origins, self._users)

    def _scope(self, runs: tuple[Run, ...], nodes: tuple[Node, ...]) -> tuple[tuple[Run, ...], tuple[Node, ...]]:
        """The runs and nodes of a graph or sub-graph, with all edits in it in place."""
        put: list[Node] = []
        plain = []
        for run in runs:
            found = [node for invoke in run.invokes for one in invoke.edits for node in self._apply(invoke, one)]
            invokes = tuple(invoke.model_copy(update={"edits": ()}) for invoke in run.invokes)
            plain.append(_stepwise(run, found).model_copy(update={"invokes": invokes}))
            put += found if run.generate is None else []
        return tuple(plain), (*put, *(self._within(node) for node in nodes))

    def _within(self, thing: FrozenT) -> FrozenT:
        """A node, or a part of one, with the edits in its sub-graphs in place."""
        found: dict[str, object] = {}
        for name, value in thing:
            if isinstance(value, SubGraph):
                runs, nodes = self._scope(value.runs, value.nodes)
                found[name] = value.model_copy(update={"runs": runs, "nodes": nodes})
            elif isinstance(value, Frozen):
                found[name] = self._within(value)
        return thing.model_copy(update=found) if found else thing

    def _apply(self, invoke: Invoke, one: Applied) -> list[Node]:
        """The nodes that one application comes to."""
        try:
            fragment = self._fragment(one)
            self._reserve(one, fragment)
            return self._nodes(invoke, one, fragment)
        except TelepatchError as error:
            raise self._graph.blame(error, invoke.id) from None

    def _fragment(self, one: Applied) -> Fragment:
        found = self._fragments.get(one.name)
        if found is None:
            raise NotFound(f"there is no edit '{one.name}' among yours; GET /v1/edits lists them")
        if isinstance(found, TelepatchError):
            raise type(found)(found.detail)
        mine, theirs = self._graph.model, found.model
        if mine.id != theirs.id:
            raise BadArgument(f"edit '{one.name}' is of model '{theirs.id}', and is applied to '{mine.id}'")
        if theirs.revision is not None and mine.revision not in (None, theirs.revision):
            raise BadArgument(
                f"edit '{one.name}' was made for revision {theirs.revision} of '{theirs.id}', and is applied to "
                f"{mine.revision}; store it again"
            )
        return found

    def _reserve(self, one: Applied, fragment: Fragment) -> None:
        nodes, size = fragment.size
        self._count, self._bytes = self._count + nodes, self._bytes + size
        if self._count > self._most:
            raise TooLarge(f"with edit '{one.name}' the graph has more than {self._most} nodes, the limit of its model")
        if self._bytes > MAX_BYTES:
            raise TooLarge(f"with edit '{one.name}' the edits of the graph take more than {MAX_BYTES:,} bytes")

    def _nodes(self, invoke: Invoke, one: Applied, fragment: Fragment) -> list[Node]:
        prefix = f"{re.sub(r'[^A-Za-z0-9]', '_', one.name)[:20]}_{self._applied}"
        self._applied += 1
        names = self._constants_of(one.name, fragment) | self._arguments(one, fragment, prefix)
        for ref in names.values():
            self._users.setdefault(ref.id, Origin(one.name, "", invoke.id, None))
        carried: dict[str, frozenset[str]] = {}
        for node in inside(fragment.nodes):
            for own in (node.id, *(name for body in bodies_of(node) for name in body.binds - {STEP})):
                names[own] = Ref(self._new(f"{prefix}_{own}"))
            if isinstance(node, Repeat):
                carried[node.id] = frozenset(node.carry)
            self._origins[names[node.id].id] = Origin(one.name, node.id, invoke.id, fragment.lines.get(node.id))
        renaming = Renaming(names, invoke.id, carried)
        return [self._renamed(renaming, one.name, node) for node in fragment.nodes]

    def _renamed(self, renaming: Renaming, edit: str, node: Node) -> Node:
        try:
            return renaming.node(node)
        except GraphError as error:
            raise type(error)(f"edit '{edit}', node '{node.id}': {error.detail}") from None

    def _constants_of(self, edit: str, fragment: Fragment) -> dict[str, Ref]:
        """New names of its constants and defaults, which all its applications share."""
        if edit not in self._shared:
            base = re.sub(r"[^A-Za-z0-9]", "_", edit)[:20]
            defaults = {name: one.default for name, one in fragment.arguments.items() if one.default is not None}
            values = fragment.constants | defaults
            found = {name: self._new(f"{base}_{name}") for name in values}
            self._constants |= {found[name]: value for name, value in values.items()}
            self._shared[edit] = {name: Ref(now) for name, now in found.items()}
        return dict(self._shared[edit])

    def _arguments(self, one: Applied, fragment: Fragment, prefix: str) -> dict[str, Ref]:
        """What each argument stands for."""
        takes = ", ".join(fragment.arguments) or "none"
        for name in one.arguments:
            if name not in fragment.arguments:
                near = difflib.get_close_matches(name, fragment.arguments, n=1)
                hint = f" (did you mean '{near[0]}'?)" if near else ""
                raise UnknownName(f"edit '{one.name}' has no argument '{name}'{hint}; it takes {takes}")
        given = {name: value for name, value in one.arguments.items() if value is not None}
        needed = [name for name, argument in fragment.arguments.items() if argument.default is None]
        missing = [name for name in needed if name not in given]
        if missing:
            raise BadArgument(f"edit '{one.name}' needs a value for its argument '{missing[0]}'; it takes {takes}")
        return {name: self._argument(one.name, name, value, prefix) for name, value in given.items()}

    def _argument(self, edit: str, name: str, value: JsonValue, prefix: str) -> Ref:
        ref = refs.parse(value)
        if ref is not None:
            return ref
        if any(True for _ in refs.walk(value)):
            raise BadArgument(f"edit '{edit}': argument '{name}' holds values in a list; give it one value")
        found = self._new(f"{prefix}_{name}")
        self._constants[found] = refs.literal(value) if isinstance(value, str) else value
        return Ref(found)

    def _new(self, wished: str) -> str:
        """A name that nothing has, as near to a wish as its length allows."""
        wished = wished if not wished[0].isdigit() else f"e{wished}"
        name = wished[:64]
        while name in self._taken:
            self._spare += 1
            name = f"{wished[:50]}_{self._spare}"
        self._taken.add(name)
        return name


def _stepwise(run: Run, nodes: list[Node]) -> Run:
    """A run; of a generation, with the edits at every step."""
    if run.generate is None or not nodes:
        return run
    each = run.each or Each()
    return run.model_copy(update={"each": each.model_copy(update={"nodes": (*nodes, *each.nodes)})})


def _names_in(graph: Graph) -> Iterator[str]:
    """Every name that a graph has for something."""
    yield from (STEP, *graph.constants)
    for run in all_runs(graph):
        yield run.id
        yield from (invoke.id for invoke in run.invokes)
        yield from run.each.state if run.each is not None else ()
    for node in all_nodes(graph):
        yield node.id
        for body in bodies_of(node):
            yield from body.binds
            yield from body.graph.out
