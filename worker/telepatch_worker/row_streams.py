"""Maps that are never held as a whole: their rows come as fits ask for them, once for all fits that read in step."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from telepatch_protocol.graph import Map, Set
from telepatch_protocol.refs import Ref
from telepatch_worker.mapping import Elements
from telepatch_worker.requests import Work, together

if TYPE_CHECKING:
    from telepatch_worker.frame import Frame

AHEAD = 8
"""How many chunks the fastest reader may be ahead of the slowest."""

Rows = dict[str, torch.Tensor]


class Stream:
    """The rows of a map.

    Args:
        frame: the scope in which it stands.
        node: the map.
    """

    def __init__(self, frame: Frame, node: Map) -> None:
        self.node = node
        names = frame.plan.needs[node.id]
        known = {name: frame.lookup(Ref(name)) for name in names if not isinstance(frame.plan.nodes[name], Set)}
        self._frame = type(frame)(frame.plan, frame.context, frame, known, frame.place)  # it lets go of them itself
        self.elements = Elements(self._frame, node)
        self._passes: list[_Pass] = []

    def open(self, start: int) -> Reader:
        """A reader from an element on; with the others that begin there now, if there are any."""
        self._passes = [one for one in self._passes if one.readers]
        for one in self._passes:
            if one.begins(start):
                return Reader(one)
        self._passes.append(_Pass(self, start))
        return Reader(self._passes[-1])

    def made(self, places: Sequence[int]) -> Work[Rows]:
        """The rows of some elements."""
        frames = [self.elements.frame(at) for at in places]
        yield from together(one.run() for one in frames)
        found: dict[str, list[torch.Tensor]] = {name: [] for name in self.node.body.out}
        for one in frames:
            for name, value in one.outputs(self.node.body.out).items():
                whole = self.node.reduce.get(name, "stack") == "cat"
                found[name].append(value.detach() if whole else value.detach()[None])
            one.close()
        return {name: torch.cat(parts) for name, parts in found.items()}


@dataclass(frozen=True)
class Column:
    """One output of a stream."""

    stream: Stream
    name: str


class Reader:
    """A place in a pass over a stream."""

    def __init__(self, source: _Pass) -> None:
        self._source = source
        self.position = 0
        source.readers.append(self)

    @property
    def element(self) -> int:
        """The first element that was not read."""
        return self._source.element(self.position)

    def take(self) -> Work[Rows | None]:
        """The next rows; None at the end of the pass."""
        found = yield from self._source.chunk(self)
        return found

    def close(self) -> None:
        """Read no more."""
        if self in self._source.readers:
            self._source.readers.remove(self)
            self._source.forget()


class _Pass:
    """The chunks of a stream from an element to the end, each kept until all readers had it."""

    def __init__(self, stream: Stream, start: int) -> None:
        self._stream = stream
        self._start = start
        self._elements = [start]
        self._chunks: deque[Rows] = deque()
        self._first = 0
        self._order = stream.elements.in_order(start)
        self._busy = self._ended = False
        self.readers: list[Reader] = []

    def begins(self, start: int) -> bool:
        """Whether a reader may still begin here."""
        return self._start == start and self._first == 0

    def element(self, position: int) -> int:
        """The first element of the chunk at a position."""
        return self._elements[position]

    def chunk(self, reader: Reader) -> Work[Rows | None]:
        """The chunk that a reader is at; the first who wants it makes it, the others wait."""
        while reader.position >= self._first + len(self._chunks):
            if self._ended:
                return None
            if self._busy or (len(self._chunks) >= AHEAD and len(self.readers) > 1):
                yield []
                continue
            yield from self._more()
        found = self._chunks[reader.position - self._first]
        reader.position += 1
        self.forget()
        return found

    def forget(self) -> None:
        """Let go of what every reader has had."""
        slowest = min((one.position for one in self.readers), default=self._first + len(self._chunks))
        while self._first < slowest and self._chunks:
            self._chunks.popleft()
            self._first += 1

    def _more(self) -> Work[Any]:
        self._busy = True
        try:
            places = next(self._order, None)
            if places is None:
                self._ended = True
                return
            made = yield from self._stream.made(places)
            self._chunks.append(made)
            self._elements.append(places[-1] + 1)
        finally:
            self._busy = False
