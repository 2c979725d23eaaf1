"""Rows that are computed once as long as they are the same: who shares whose, and from where on each has its own.

Inputs with the same tokens share the rows of one of them, the host, as far as they are alike: an input joins the batch,
as a copy of its host, at the entrance or exit of a block before the first write to it. One that nobody writes to never
does. So a hundred reads of one prompt cost one forward, and a sweep of patches computes what lies below a patch once.

The host is the input that differs last, so that no row is there without need.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch

from telepatch_protocol.card import Leaf, ModelCard, PortCard
from telepatch_protocol.sites import Place
from telepatch_worker.layout import Rows, Seat
from telepatch_worker.leaves import leaf_of, replace_leaf
from telepatch_worker.moments import Moment, location_of

Key = TypeVar("Key", bound=Hashable)

NEVER = -1
"""In place of a gate: nobody writes to the input."""

AT_ONCE = -2
"""In place of a gate: the input is written to before the first of them."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A place of the forward at which rows may join.

    Attributes:
        order: of its event among all events of a forward.
        location: nnsight's name of it.
        own: tensors that have the rows of the batch as it is here.
        outer: tensors from outside of the blocks, with the rows with which the forward began.
    """

    order: int
    location: str
    own: tuple[Place, ...]
    outer: tuple[Place, ...] = ()


def gates_of(card: ModelCard) -> tuple[Gate, ...]:
    """The entrances and exits of a model's blocks, in order; none where rows cannot be told apart there."""
    pattern = card.aliases.modules.get("blocks.*")
    if pattern is None:
        return ()
    head, _, tail = pattern.partition("*")
    names = {path: path[len(head) : len(path) - len(tail)] for path in card.by_path if path.startswith(head)}
    blocks = [card.by_path[path] for path, name in names.items() if path.endswith(tail) and name.isdigit()]
    gates: list[Gate] = []
    for block in blocks:
        if not _plain(block.input) or not _plain(block.output):
            return ()
        assert block.input is not None
        assert block.output is not None
        own, outer = _places(block.path, "input", block.input), _places(block.path, "output", block.output)
        main = block.input.leaves[block.input.primary].path
        inside = tuple(place for place in own if place.leaf == main)
        around = tuple(place for place in own if place.leaf != main)
        gates.append(Gate(block.input.order[0], location_of(inside[0]), inside, around))
        gates.append(Gate(block.output.order[0], location_of(outer[0]), outer))
    return tuple(sorted(gates, key=lambda gate: gate.order))


def _plain(port: PortCard | None) -> bool:
    """Whether a block is passed once, and its rows can be told apart in every tensor that has any."""
    if port is None or len(port.order) != 1 or port.leaves[port.primary].axes[:1] != ("row",):
        return False
    return all(leaf.solved and not _mixed(leaf) for leaf in port.leaves)


def _mixed(leaf: Leaf) -> bool:
    return "row" in leaf.axes[1:] or "row*pos" in leaf.axes


def _places(path: str, side: str, port: PortCard) -> tuple[Place, ...]:
    return tuple(Place(path, side, leaf.path) for leaf in port.leaves if leaf.axes[:1] == ("row",))


class Doors:
    """At which gate inputs of a model part.

    Args:
        card: of the model.
    """

    def __init__(self, card: ModelCard) -> None:
        self._card = card
        self.gates = gates_of(card)

    def leaves_at(self, moments: Iterable[Moment], invoke: str) -> int:
        """The last gate before anything is written to an input: its number, `NEVER`, or `AT_ONCE`."""
        first = next((moment for moment in moments if moment.writes and moment.invoke == invoke), None)
        if first is None:
            return NEVER
        order = self._order(first.place)
        return max((at for at, gate in enumerate(self.gates) if gate.order <= order), default=AT_ONCE)

    def _order(self, place: Place) -> int:
        """Of an event of a module; of an operation inside it, that of the module's beginning."""
        module = self._card.by_path[place.path]
        port = module.output if place.port == "output" else module.input
        return port.order[place.call] if port is not None and place.call < len(port.order) else AT_ONCE


@dataclass(frozen=True)
class Seated(Generic[Key]):
    """Who has rows from the beginning, and who shares whose.

    Attributes:
        first: those with rows of their own from the beginning.
        hosts: whose rows each of the others shares.
        gates: where each of the others joins; `NEVER` for those who share to the end.
    """

    first: tuple[Key, ...]
    hosts: Mapping[Key, Key]
    gates: Mapping[Key, int]


def seated(alike: Mapping[Key, Hashable], gates: Mapping[Key, int]) -> Seated[Key]:
    """Who shares whose rows.

    Args:
        alike: what is equal for inputs that are the same.
        gates: where each input leaves those that it is like.
    """
    groups: dict[Hashable, list[Key]] = {}
    for key, what in alike.items():
        groups.setdefault(what, []).append(key)
    hosts: dict[Key, Key] = {}
    for members in groups.values():
        if len(members) > 1:
            host = max(members, key=lambda key: _late(gates[key]))
            hosts |= {key: host for key in members if key != host and gates[key] != AT_ONCE}
    return Seated(tuple(key for key in alike if key not in hosts), hosts, {key: gates[key] for key in hosts})


def _late(gate: int) -> float:
    return float("inf") if gate == NEVER else gate


class Seating:
    """The seats of one forward, as rows join.

    Args:
        seats: of every input.
        joining: at each gate, by its number, who joins there, and its host.
        gates: of the model.
        total: rows at the beginning.
    """

    def __init__(
        self,
        seats: Sequence[Seat],
        joining: Mapping[int, Sequence[tuple[Seat, Seat]]],
        gates: Sequence[Gate],
        total: int,
    ) -> None:
        self._seats, self._total = seats, total
        self._gates = {gate.location: gate for gate in gates}
        self._joining = {gates[at].location: pairs for at, pairs in joining.items()}
        self._origin: torch.Tensor | None = None

    def pass_by(self, location: str, value: Any) -> Any:
        """What goes on from a place, once those have joined who join there."""
        gate = self._gates.get(location)
        if gate is None:
            return value
        if pairs := self._joining.pop(location, ()):
            value = self._join(gate, pairs, value)
        return value if self._origin is None else _spread(value, gate.outer, self._origin)

    def ends(self) -> dict[int, Rows]:
        """Where each seat is in the end, by `id`."""
        total, starts = self._total, {id(seat): seat.rows.start for seat in self._seats}
        for gate in self._gates:
            for seat, host in self._joining.get(gate, ()):
                starts[id(seat)] = total
                total += host.rows.count
        return {id(seat): replace(seat.rows, start=starts[id(seat)], total=total) for seat in self._seats}

    def _join(self, gate: Gate, pairs: Sequence[tuple[Seat, Seat]], value: Any) -> Any:
        rows = [*range(self._total)]
        for seat, host in pairs:
            seat.rows = replace(host.rows, start=len(rows))
            rows += range(host.rows.start, host.rows.start + host.rows.count)
        self._total = len(rows)
        for seat in self._seats:
            seat.rows = replace(seat.rows, total=self._total)
        tensor = leaf_of(value, gate.own[0])
        index = torch.tensor(rows, device=None if tensor is None else tensor.device)
        self._origin = index if self._origin is None else self._origin[index]
        return _spread(value, gate.own, index)


def _spread(value: Any, places: Iterable[Place], index: torch.Tensor) -> Any:
    """The same with rows of some tensors as an index says; what is not there in this forward stays away."""
    for place in places:
        tensor = leaf_of(value, place)
        if tensor is not None:
            value = replace_leaf(value, place, tensor.index_select(0, index))
    return value


def seats_for(
    found: Seated[Key], rows: Mapping[Key, Rows], gates: Sequence[Gate]
) -> tuple[dict[Key, Seat], Seating | None]:
    """The seat of every input, and how they change on the way; None where nobody joins.

    Args:
        found: who shares whose rows.
        rows: of those who have their own from the beginning.
        gates: of the model.
    """
    seats = {key: Seat(rows[key]) for key in found.first}
    joining: dict[int, list[tuple[Seat, Seat]]] = {}
    for key, host in found.hosts.items():
        gate = found.gates[key]
        seats[key] = Seat(rows[host]) if gate != NEVER else seats[host]
        if gate != NEVER:
            joining.setdefault(gate, []).append((seats[key], seats[host]))
    if not joining:
        return seats, None
    different = list({id(seat): seat for seat in seats.values()}.values())
    return seats, Seating(different, joining, gates, next(iter(rows.values())).total)
