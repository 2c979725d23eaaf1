"""The elements of a map: what each is bound to, which are planned alike, and how many run at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from telepatch_protocol.checked import Key
from telepatch_protocol.errors import ShapeError, TooLarge
from telepatch_protocol.graph import Invoke, Map
from telepatch_protocol.refs import parse
from telepatch_protocol.spans import key_of
from telepatch_protocol.within import Within, bound_of
from telepatch_worker.scope_plan import ScopePlan
from telepatch_worker.values import Value

if TYPE_CHECKING:
    from telepatch_worker.frame import Frame


class Elements:
    """The elements of a map in one evaluation.

    Args:
        frame: the scope in which the map stands.
        node: the map.
        kind: of the node that it is, or stands for.
    """

    def __init__(self, frame: Frame, node: Map, kind: str = "map") -> None:
        self._frame = frame
        self._node = node
        self._kind = kind
        self._over: dict[str, Any] = {name: frame.argument(value) for name, value in node.over.items()}
        counts = [len(one) for one in self._over.values()]
        if not node.grid and len(set(counts)) > 1:
            listed = ", ".join(f"'{name}' {len(one)}" for name, one in self._over.items())
            raise ShapeError(f"map '{node.id}' takes its lists together, and they have {listed} elements")
        self.lead = tuple(counts) if node.grid else (counts[0],)
        self.count = math.prod(self.lead)
        if not self.count:
            empty = ", ".join(f"'{name}'" for name, one in self._over.items() if not len(one))
            raise ShapeError(f"map '{node.id}' goes over {empty}, which has no elements")
        most = frame.context.card.limits.max_elements
        if self.count > most:
            raise TooLarge(f"map '{node.id}' has {self.count:,} elements; the limit is {most:,}")

    def chunks(self, places: Iterable[int] | None = None) -> Iterator[list[int]]:
        """Elements that run together, of all or of some: similar ones, and no more than the budget of a forward."""
        wanted = range(self.count) if places is None else places
        return self._filled(sorted(((self._size(at), at) for at in wanted), key=lambda one: -one[0][1]))

    def in_order(self, start: int = 0) -> Iterator[list[int]]:
        """Elements that run together: from one on, as they stand, and no more than the budget of a forward."""
        return self._filled((self._size(at), at) for at in range(start, self.count))

    def _filled(self, sized: Iterable[tuple[tuple[int, int], int]]) -> Iterator[list[int]]:
        context = self._frame.context
        chunk: list[int] = []
        rows, longest, most = 0, 0, context.at_once()
        for (own, length), at in sized:
            if chunk and ((rows + own) > context.rows or (rows + own) * max(longest, length) > most):
                yield chunk
                chunk, rows, longest, most = [], 0, 0, context.at_once()
            chunk.append(at)
            rows, longest = rows + own, max(longest, length)
        if chunk:
            yield chunk

    def frame(self, at: int, more: Mapping[str, Value] | None = None, step: int | None = None) -> Frame:
        """The scope of one element, at a step where there are any, in which more names may stand for something."""
        bound = self._bound(at)
        within = Within(kind=self._kind, node=self._node.id, element=at, step=step, bound=bound_of(bound))
        return self._frame.inside(self._plan(bound), {**bound, **(more or {})}, at=at, within=within)

    def _bound(self, at: int) -> dict[str, Value]:
        places = self._places(at)
        return {name: self._row(one[place]) for (name, one), place in zip(self._over.items(), places, strict=True)}

    def _row(self, value: Value) -> Value:
        return value.to(self._frame.context.device) if isinstance(value, torch.Tensor) else value

    def _places(self, at: int) -> tuple[int, ...]:
        if not self._node.grid:
            return (at,) * len(self._over)
        found = []
        for count in reversed(self.lead):
            at, place = divmod(at, count)
            found.append(place)
        return tuple(reversed(found))

    def _plan(self, bound: dict[str, Value]) -> ScopePlan:
        return self._frame.plan.body(self._node.id, self._key(bound))

    def _key(self, bound: dict[str, Value]) -> Key:
        plan = self._frame.context.plan
        holes = self._frame.plan.holes(self._node)
        return tuple(
            key_of(value, hole=name in holes, lengths=plan.lengths) if isinstance(self._over[name], list) else None
            for name, value in bound.items()
        )

    def _size(self, at: int) -> tuple[int, int]:
        """Rows and positions of an element's inputs, sub-graphs inside it not counted."""
        bound = self._bound(at)
        plan = self._plan(bound)
        sizes, invokes = plan.inputs(), plan.invoked()
        rows = sum(one.rows if isinstance(one.rows, int) else 1 for one in sizes.values())
        lengths = (
            one.length if isinstance(one.length, int) else self._length(invokes[name], bound)
            for name, one in sizes.items()
        )
        return max(1, rows), max(lengths, default=1)

    def _length(self, invoke: Invoke, bound: dict[str, Value]) -> int:
        """Positions of an input that is an element of data; of one that is computed, the most that there can be."""
        ref = parse(invoke.text if invoke.form == "text" else invoke.ids)
        value = bound.get(ref.id) if ref is not None else None
        if isinstance(value, str):
            return len(self._frame.context.plan.ids_of(value))
        if isinstance(value, torch.Tensor) and value.ndim:
            return value.shape[-1]
        return self._frame.context.card.limits.max_positions
