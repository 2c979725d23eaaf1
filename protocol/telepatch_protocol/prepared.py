"""Documents that differ in their constants alone are checked once: the thousandth variant of a loop costs no more than
looking at what is different in it.

What was found about a document is kept under its structure and under what checking asks of its constants (`roles`):
sizes of inputs, shapes and dtypes of values from elsewhere, numbers in sites. A number in an index is no part of that:
of it is kept how long the shortest axis is that it picks from.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from threading import Lock

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
from telepatch_protocol.order import given_to
from telepatch_protocol.price import price
from telepatch_protocol.roles import Role, roles_of
from telepatch_protocol.subgraphs import has_bodies

MAX_NODES = 20_000
"""Nodes of all documents that are kept, together."""


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
        self._most = nodes
        self._nodes = 0
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._roles: OrderedDict[str, dict[str, Role] | None] = OrderedDict()
        self._lock = Lock()

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
        with self._lock:
            kept = None if key is None else self._kept.get(key)
            if key is not None and kept is not None:
                self._kept.move_to_end(key)
        if kept is not None and kept.holds(graph):
            return replace(kept.prepared, checked=replace(kept.prepared.checked, graph=graph))
        checked = check(
            graph, self.card, lengths=lengths, attachment=attachment, results=results, data=data, known=picked
        )
        found = Prepared(checked, price(checked, self.card), key)
        if key is not None:
            self._keep(key, _Kept(found, {name: one.axis for name, one in picked.items() if one.axis is not None}))
        return found

    def _keep(self, key: Hashable, kept: _Kept) -> None:
        with self._lock:
            before = self._kept.pop(key, None)
            self._nodes += _size(kept) - (0 if before is None else _size(before))
            self._kept[key] = kept
            while self._nodes > self._most:
                self._nodes -= _size(self._kept.popitem(last=False)[1])

    def _key(
        self, graph: Graph, lookup: Lookup, lengths: Mapping[str, int]
    ) -> tuple[Hashable | None, dict[str, Picked]]:
        """What a document is kept under, and its numbers in indices."""
        try:
            structure, roles = self._structure(graph)
            if roles is None:
                return None, {}
            picked: dict[str, Picked] = {}
            parts: list[Hashable] = []
            for name, value in graph.constants.items():
                role = roles[name]
                if role == "index" and type(value) is int:
                    picked[name] = Picked(value)
                elif role == "number" and type(value) is float:
                    parts.append("number")
                elif isinstance(value, dict) and "range" not in value and "data" not in value:
                    lookup.constant(name, value)
                    parts.append(_known(lookup.values[name]))
                elif role == "input":
                    lookup.constant(name, value)
                else:
                    parts.append(json.dumps(value))
            parts += _inputs(graph, lookup, lengths, roles)
            return (structure, tuple(graph.constants), *parts), picked
        except (GraphError, _Open):
            return None, {}  # checking says what is wrong

    def _structure(self, graph: Graph) -> tuple[str, dict[str, Role] | None]:
        """A digest of all but the values of the constants, and what each of these is there for."""
        structure = graph.structure_key
        with self._lock:
            if structure in self._roles:
                self._roles.move_to_end(structure)
                return structure, self._roles[structure]
        roles = roles_of(graph, graph.structure())
        with self._lock:
            self._roles[structure] = roles
            while len(self._roles) > 1000:
                self._roles.popitem(last=False)
        return structure, roles


class _Open(Exception):
    """A size is not known yet, so that what is found holds for nothing else."""


def _inputs(graph: Graph, lookup: Lookup, lengths: Mapping[str, int], roles: Mapping[str, Role]) -> Iterator[Hashable]:
    """Sizes of what forwards are given, as far as the rest does not tell them."""
    if has_bodies(graph) or any(run.generate is not None for run in graph.runs):
        yield tuple(sorted(lengths.items()))
    for run in graph.runs:
        for invoke in run.invokes:
            refs = [ref.id for ref in given_to(invoke)]
            if invoke.form in ("text", "messages") or any(roles.get(name) == "input" for name in refs):
                size = size_of(invoke, lookup.argument, lengths, lookup.card)
                if not all(isinstance(one, int) for one in (size.rows, size.length, size.target)):
                    raise _Open
                yield size


def _known(value: object) -> Hashable:
    """Shape and dtype of a value from elsewhere."""
    assert isinstance(value, Meta)
    if value.shape is None or not all(isinstance(one, int) for one in value.shape):
        raise _Open
    return value


def _size(kept: _Kept) -> int:
    """About how much memory it takes, in nodes."""
    scope = kept.prepared.checked.scope
    return (
        1 + len(scope.order) + sum(len(body.order) + 1 for bodies in scope.bodies.values() for body in bodies.values())
    )
