"""What can happen when: how many forwards a graph needs, and which reads and writes belong to each.

Reads and writes are events: at the same site they happen in document order, otherwise in the model's firing order. In
one forward a value can flow from an event to every later one, in any invoke. A value that is needed earlier than it
exists takes another forward, in which the invokes that still have something to read run again with all that is known by
then. A read counts only if every write before it in its own invoke could be made; so a value that feeds a write on
which it depends itself is never obtained, and that is a causal loop.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from telepatch_protocol.errors import CausalLoop


@dataclass(frozen=True, slots=True)
class Event:
    """One read or write.

    Attributes:
        node: id of the node.
        invoke: id of the invoke.
        order: the place's number in the forward.
        writes: whether it is a write.
        part: which of the places of a starred site.
        tracked: whether gradients are asked of it, so that every forward of its invoke has to come by there.
        again: whether it was read in an earlier forward already, and is only tracked in this one.
    """

    node: str
    invoke: str
    order: float
    writes: bool
    part: int = 0
    tracked: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward: the invokes that take part and what happens in it, in order."""

    invokes: tuple[str, ...]
    events: tuple[Event, ...]

    @property
    def stop(self) -> float:
        """The last event's place in the forward; nothing after it is needed."""
        return self.events[-1].order


@dataclass(frozen=True, slots=True)
class Schedule:
    """All forwards of a graph, and the writes that no read can see."""

    passes: tuple[Pass, ...]
    unseen: tuple[str, ...]


def schedule(
    events: Iterable[Event],
    needs: Mapping[str, Iterable[str]],
    *,
    together: bool = True,
    between: Collection[str] = (),
    starts: Mapping[str, Collection[str]] | None = None,
) -> Schedule:
    """Place every event in a forward.

    Args:
        events: all reads and writes, in document order.
        needs: for each node, the nodes whose values it uses; constants are left out.
        together: whether several invokes share a forward; if not, each forward holds one invoke.
        between: nodes that happen only when no forward runs.
        starts: for invokes whose input is computed, the nodes that give it.

    Returns:
        The forwards, in order.

    Raises:
        CausalLoop: a value depends on a write that it feeds.
    """
    return _Scheduler(list(events), needs, between, starts or {}).run(together)


class _Scheduler:
    def __init__(
        self,
        events: list[Event],
        needs: Mapping[str, Iterable[str]],
        between: Collection[str],
        starts: Mapping[str, Collection[str]],
    ) -> None:
        self.between = [node for node in needs if node in between]
        self.waits = frozenset(between)
        self.starts = starts
        self.flying = False
        self.needs = {node: set(found) for node, found in needs.items()}
        self.users: dict[str, list[str]] = defaultdict(list)
        for node, found in self.needs.items():
            for other in found:
                self.users[other].append(node)
        self.by_invoke: dict[str, list[Event]] = {event.invoke: [] for event in events}
        for event in sorted(events, key=lambda event: event.order):
            self.by_invoke[event.invoke].append(event)
        self.reads_left: dict[str, set[int]] = defaultdict(set)
        for event in events:
            if not event.writes:
                self.reads_left[event.node].add(event.part)
        self.firing = {event.node for event in events}
        self.missing = {node: len(found) for node, found in self.needs.items()}
        self.ready: set[str] = set()
        self.log: list[Event | str] = []
        self.held: set[str] = set()
        for node in self.needs:
            if node not in self.firing and not self.missing[node]:
                self._obtain(node)

    def run(self, together: bool) -> Schedule:
        passes: list[Pass] = []
        order = list(self.by_invoke)
        while waiting := [invoke for invoke in order if self._unread(invoke)]:
            begun = [invoke for invoke in waiting if self.ready.issuperset(self.starts.get(invoke, ()))]
            made = self._best_together(begun) if together else self._best_alone(begun)
            if made is None:
                raise self._loop(waiting)
            passes.append(made)
            for node in self.between:
                if not self.missing[node]:
                    self._obtain(node)
        return Schedule(tuple(passes), self._unseen())

    def _unread(self, invoke: str) -> bool:
        return any(not event.writes and event.part in self.reads_left[event.node] for event in self.by_invoke[invoke])

    def _best_together(self, waiting: list[str]) -> Pass | None:
        """All that can go on; invokes that would have to run again are left for later unless the others need them."""
        mark = len(self.log)
        made = self._forward(waiting)
        free = [invoke for invoke in waiting if invoke not in self.held]
        if not self.held or not free:
            return made
        self._undo(mark)
        alone = self._forward(free)
        if alone is not None and not self.held:
            return alone
        self._undo(mark)
        return self._forward(waiting)

    def _best_alone(self, waiting: list[str]) -> Pass | None:
        """The first invoke that can be read to its end now; if none can, the first that gives anything."""
        for invoke in waiting:
            if self._complete_alone(invoke):
                return self._forward([invoke])
        for invoke in waiting:
            if (made := self._forward([invoke])) is not None:
                return made
        return None

    def _complete_alone(self, invoke: str) -> bool:
        """Whether nothing that the invoke needs is still to come from another one."""
        own = {event.node for event in self.by_invoke[invoke]}
        seen: set[str] = set()
        stack = [need for node in own for need in self.needs.get(node, ())]
        while stack:
            node = stack.pop()
            if node in seen or node in self.ready:
                continue
            seen.add(node)
            if node in self.firing and node not in own:
                return False
            stack.extend(self.needs.get(node, ()))
        return True

    def _forward(self, invokes: list[str]) -> Pass | None:
        self.flying = True
        try:
            return self._flown(invokes)
        finally:
            self.flying = False

    def _flown(self, invokes: list[str]) -> Pass | None:
        self.held = set()
        queues = {invoke: deque(self.by_invoke[invoke]) for invoke in invokes}
        done: list[Event] = []
        read_in: set[str] = set()
        for order in sorted({event.order for queue in queues.values() for event in queue}):
            self._at(order, queues, done, read_in)
        if not read_in:
            return None
        kept = [event for event in done if event.invoke in read_in]
        last = {event.invoke: place for place, event in enumerate(kept) if not event.writes and not event.again}
        kept = [event for place, event in enumerate(kept) if place <= last[event.invoke]]
        return Pass(tuple(invoke for invoke in invokes if invoke in read_in), tuple(kept))

    def _at(self, order: float, queues: dict[str, deque[Event]], done: list[Event], read_in: set[str]) -> None:
        """Everything at one place of the forward; an invoke whose write must wait there takes no further part."""
        moved = True
        while moved:
            moved = False
            for queue in queues.values():
                while queue and queue[0].order == order and self._step(queue[0], done, read_in):
                    queue.popleft()
                    moved = True
        for invoke in [invoke for invoke, queue in queues.items() if queue and queue[0].order == order]:
            del queues[invoke]
            self.held.add(invoke)

    def _step(self, event: Event, done: list[Event], read_in: set[str]) -> bool:
        """Make one event happen; false for a write that must wait. A read done, or not yet possible, is passed over."""
        if not event.writes and event.part not in self.reads_left[event.node]:
            if event.tracked:
                done.append(replace(event, again=True))
            return True
        if not event.writes and self.missing.get(event.node):
            return True
        if self.missing.get(event.node):
            return False
        done.append(event)
        if not event.writes:
            read_in.add(event.invoke)
            self.reads_left[event.node].discard(event.part)
            self.log.append(event)
            if not self.reads_left[event.node]:
                self._obtain(event.node)
        return True

    def _obtain(self, node: str) -> None:
        stack = [node]
        while stack:
            found = stack.pop()
            if found in self.ready:
                continue
            self.ready.add(found)
            self.log.append(found)
            for user in self.users[found]:
                self.missing[user] -= 1
                if not self.missing[user] and user not in self.firing and not (self.flying and user in self.waits):
                    stack.append(user)

    def _undo(self, mark: int) -> None:
        """Go back to what was known when the log had `mark` entries."""
        while len(self.log) > mark:
            entry = self.log.pop()
            if isinstance(entry, Event):
                self.reads_left[entry.node].add(entry.part)
            else:
                self.ready.discard(entry)
                for user in self.users[entry]:
                    self.missing[user] += 1

    def _loop(self, waiting: list[str]) -> CausalLoop:
        for invoke in waiting:
            for event in self.by_invoke[invoke]:
                if event.writes and self.missing.get(event.node):
                    return self._blame(event)
        for invoke in waiting:
            if late := [node for node in self.starts.get(invoke, ()) if node not in self.ready]:
                return CausalLoop(
                    f"the input of invoke '{invoke}' needs the value of '{late[0]}', which needs that invoke to run",
                    node=invoke,
                    parent=late[0],
                )
        return CausalLoop("values of this graph wait for each other")

    def _blame(self, write: Event) -> CausalLoop:
        late = self._source(write)
        return CausalLoop(
            f"write '{write.node}' needs the value of '{late}', which the same input '{write.invoke}' has only after "
            f"that write; read it in a second invoke of the same input and use that value here",
            node=write.node,
            parent=late,
        )

    def _source(self, write: Event) -> str:
        """A read of the same invoke, at or after the write, that it waits for."""
        own = {event.node for event in self.by_invoke[write.invoke] if not event.writes}
        stack, seen, other = list(self.needs[write.node]), set[str](), ""
        while stack:
            node = stack.pop()
            if node in self.ready or node in seen:
                continue
            seen.add(node)
            if node in own:
                return node
            other = other or node
            stack.extend(self.needs.get(node, ()))
        return other

    def _unseen(self) -> tuple[str, ...]:
        seen: set[str] = set()
        for queue in self.by_invoke.values():
            last = max((place for place, event in enumerate(queue) if not event.writes), default=-1)
            seen |= {event.node for place, event in enumerate(queue) if place < last}
        written = dict.fromkeys(event.node for queue in self.by_invoke.values() for event in queue if event.writes)
        return tuple(node for node in written if node not in seen)
