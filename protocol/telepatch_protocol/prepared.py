"""Documents that differ in their constants alone are checked once: the thousandth variant of a loop costs no more than
looking at what is different in it.

What was found about a document is kept under its structure and under what checking asks of its constants (`roles`):
sizes of inputs, shapes and dtypes of values from elsewhere, numbers in sites. A number in an index is no part of that:
of it is kept how long the shortest axis is that it picks from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import Checked, check
from telepatch_protocol.data import Columns
from telepatch_protocol.errors import GraphError
from telepatch_protocol.graph import Graph
from telepatch_protocol.indexing import Picked
from telepatch_protocol.inputs import size_of
from telepatch_protocol.jobs import Price
from telepatch_protocol.lookup import Lookup
from telepatch_protocol.meta import Meta
from telepatch_protocol.newest import Newest
from telepatch_protocol.order import given_to
from telepatch_protocol.price import price
from telepatch_protocol.roles import Open, Role, roles_of
from telepatch_protocol.subgraphs import has_bodies

MAX_NODES = 20_000
"""Nodes of all documents that are kept, together."""

_STRUCTURES = 1000
_LONGEST = 2**16
"""Documents with longer constants are not kept: they take memory, and checking them is the least of what they cost."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known of a document before it runs.

    Attributes:
        checked: that it can run.
        price: what it costs.
        key: equal for documents that were found to be alike; None where nothing is kept.
    """

    checked: Checked
    price: Price
    key: Hashable | None


@dataclass(frozen=True, slots=True)
class _Kept:
    """A document that was checked, and for each number in an index the shortest axis that it picks from."""

    prepared: Prepared
    axes: Mapping[str, int]

    def holds(self, graph: Graph) -> bool:
        """Whether it was found of this document, too."""
        found, constants = self.prepared.checked, graph.constants
        if found.warnings and found.graph.lines != graph.lines:
            return False  # they say where
        return all(-axis <= constants[name] < axis for name, axis in self.axes.items())  # type: ignore[operator]


class Preparation:
    """Checks and prices documents for one model, those that are alike once.

    Args:
        card: of the model.
        nodes: how many nodes the documents that are kept may have, together.

    Example:
        >>> preparation = Preparation(card)
        >>> preparation.prepare(graph).price.tokens
        16
    """

    def __init__(self, card: ModelCard, nodes: int = MAX_NODES) -> None:
        self.card = card
        self._kept: Newest[Hashable, _Kept] = Newest(nodes)
        self._roles: Newest[str, dict[str, Role]] = Newest(_STRUCTURES)

    def prepare(
        self,
        graph: Graph,
        *,
        lengths: Mapping[str, int] | None = None,
        attachment: Mapping[str, Meta] | None = None,
        results: Callable[[str, str], Meta] | None = None,
        data: Mapping[str, Columns] | None = None,
    ) -> Prepared:
        """As `check` and `price`.

        Raises:
            GraphError: as these.
        """
        lookup = Lookup(self.card, attachment, results, data)
        key, picked = self._key(graph, lookup, lengths or {})
        kept = None if key is None else self._kept.get(key)
        if kept is not None and kept.holds(graph):
            return replace(kept.prepared, checked=replace(kept.prepared.checked, graph=graph))
        checked = check(
            graph, self.card, lengths=lengths, attachment=attachment, results=results, data=data, known=picked
        )
        found = Prepared(checked, price(checked, self.card), key)
        if key is not None:
            axes = {name: one.axis for name, one in picked.items() if one.axis is not None}
            self._kept.put(key, _Kept(found, axes), _size(checked))
        return found

    def _key(
        self, graph: Graph, lookup: Lookup, lengths: Mapping[str, int]
    ) -> tuple[Hashable | None, dict[str, Picked]]:
        """What a document is kept under, and its numbers in indices."""
        try:
            roles = self._roles_in(graph)
            picked: dict[str, Picked] = {}
            parts: list[Hashable] = []
            for name, value in graph.constants.items():
                role = roles[name]
                if role == "index" and type(value) is int:
                    picked[name] = Picked(value)
                    parts.append(role)
                elif role == "number" and type(value) is float:
                    parts.append(role)
                elif isinstance(value, dict) and "range" not in value and "data" not in value:
                    lookup.constant(name, value)
                    parts.append(_known(lookup.values[name]))
                elif role == "input":
                    lookup.constant(name, value)
                    parts.append(role)
                else:
                    parts.append(_short(json.dumps(value)))
            parts += _inputs(graph, lookup, lengths, roles)
            return (graph.structure_key, tuple(graph.constants), *parts), picked
        except (GraphError, Open):
            return None, {}  # checking says what is wrong, if anything is

    def _roles_in(self, graph: Graph) -> dict[str, Role]:
        """What each constant is there for."""
        found = self._roles.get(graph.structure_key)
        if found is None:
            found = roles_of(graph, graph.structure())
            self._roles.put(graph.structure_key, found)
        return found


def _inputs(graph: Graph, lookup: Lookup, lengths: Mapping[str, int], roles: Mapping[str, Role]) -> Iterator[Hashable]:
    """Sizes of what forwards are given, as far as the rest does not tell them."""
    if has_bodies(graph) or any(run.generate is not None for run in graph.runs):
        yield tuple(sorted(lengths.items()))
    for run in graph.runs:
        for invoke in run.invokes:
            refs = [ref.id for ref in given_to(invoke)]
            if invoke.form in ("text", "messages") or any(roles.get(name) == "input" for name in refs):
                size = size_of(invoke, lookup.argument, lengths, lookup.card)
                if (
                    not isinstance(size.rows, int)
                    or not isinstance(size.length, int)
                    or not isinstance(size.target, int)
                ):
                    raise Open
                if size.rows * size.length > _LONGEST:
                    raise Open
                yield size


def _short(text: str) -> str:
    if len(text) > _LONGEST:
        raise Open
    return text


def _known(value: object) -> Hashable:
    """Shape and dtype of a value from elsewhere."""
    assert isinstance(value, Meta)
    if value.shape is None or not all(isinstance(one, int) for one in value.shape):
        raise Open
    return value


def _size(checked: Checked) -> int:
    """About how much memory it takes, in nodes."""
    bodies = [body for found in checked.scope.bodies.values() for body in found.values()]
    return 1 + len(checked.scope.order) + sum(1 + len(body.order) for body in bodies)
