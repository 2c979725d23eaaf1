"""nnsight's mediators, batcher and interleaver, walking planned moments instead of a user's code.

One mediator walks the moments of one invoke, and parks where it needs a value. The batcher gives it a view of its own
rows and positions, and lets it write in place into one copy of the tensor. The interleaver serves mediators in the
order of their jobs, and ends the forward as soon as nobody waits for anything more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from nnsight import _c
from nnsight.intervention import batching, interleaver, source
from nnsight.intervention.envoy import Envoy
from nnsight.intervention.fragments import Fragments

from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.sites import Place
from telepatch_worker.layout import Rows, Seat, own_part
from telepatch_worker.leaves import read_leaf, replace_leaf
from telepatch_worker.moments import Moment, Part
from telepatch_worker.skipping import Skips
from telepatch_worker.views import seen

After = Literal["stop", "watch", "pass"]
"""What a forward does once nobody waits for anything more: it stops, or it runs to its end, watched at every site for
jobs that are to leave, or by itself."""

if _c.unmount is not None and hasattr(object, "save"):
    _c.unmount("save")  # importing nnsight adds `save` to every object there is, which breaks other libraries (anyio)


class Passing(Protocol):
    """Changes what passes by on its own account, before any job sees it."""

    def pass_by(self, location: str, value: Any) -> Any:
        """What goes on from a place."""


class Stop(interleaver.EarlyStopException):
    """Nobody waits for anything more: leave the forward."""


class _Cursor:
    """The order in which the moments of one job happen, across its invokes."""

    def __init__(self, part: Part) -> None:
        self.job = part.job
        self.owner = part.job if part.owner is None else part.owner
        self.moments = part.moments
        self.done = 0

    @property
    def next(self) -> Moment | None:
        return self.moments[self.done] if self.done < len(self.moments) else None


class Mediator(interleaver.Mediator):
    """Walks the moments of one job's invoke."""

    def __init__(self, cursor: _Cursor, invoke: str, seat: Seat) -> None:
        super().__init__(None, {}, {})
        self.cursor = cursor
        self._seat = seat
        self.moments = [moment for moment in cursor.moments if moment.invoke == invoke]

    @property
    def rows(self) -> Rows:
        """Where its invoke lies in the batch now."""
        return self._seat.rows

    def _run(self) -> None:
        for moment in self.moments:
            if moment.writes:
                self._park(interleaver.Event.SWAP, moment)
                self.cursor.done += 1
                continue
            value = self._park(interleaver.Event.VALUE, moment)
            if not moment.again:
                self.cursor.job.read(moment, value)
            self.cursor.done += 1

    def _park(self, event: interleaver.Event, moment: Moment) -> Any:
        assert self.worker is not None
        return self.worker.parent.switch(interleaver.Pending(event, moment.location, moment.place.call, moment))

    @property
    def awaited(self) -> Moment:
        """The moment that it waits for."""
        assert self.pending is not None
        moment: Moment = self.pending.value
        return moment

    def comes_to(self, provider: str) -> bool:
        """Whether this visit is what it waits for."""
        return (
            self.pending is not None
            and self.pending.provider == provider
            and self.pending.iteration == self.occurrence(provider)
        )

    def due(self, provider: str) -> bool:
        """Whether this visit is what it waits for, and no other invoke of the job comes before it."""
        return self.comes_to(provider) and self.awaited is self.cursor.next

    def handle(self, provider: str, value: Any) -> Any:
        """Serve one moment; more at this visit follow when it is this invoke's turn again."""
        if self.pending is None:  # another invoke of its job has failed at this very visit
            return value
        moment: Moment = self.pending.value
        batcher: _Batcher = self.interleaver.batcher
        try:
            if moment.writes:
                value = batcher.widen(value, (moment, self.rows), self.cursor.job.write)
                self.pending = self.switch()
            else:
                if moment.tracked:
                    value = batcher.tracked(value, moment)
                    self.cursor.job.track(moment, read_leaf(value, moment.place), self.rows)
                self.pending = self.switch(batcher.narrow(value, (moment, self.rows)))
        except Exception as error:
            self.interleaver.drop(self.cursor.owner)
            self.cursor.job.fail(error)
        return value


class _Batcher(batching.Batcher):
    """Narrows and widens by rows and positions; all writes of one visit go into one copy of the tensor."""

    def __init__(self, envoy: Envoy) -> None:
        super().__init__(envoy)
        self._copies: dict[Place, torch.Tensor] = {}

    def visit(self) -> None:
        """A new visit begins: copies of the last one are not needed any more."""
        self._copies.clear()

    def narrow(self, value: Any, group: Any) -> torch.Tensor:
        """The invoke's own part of the tensor, as a view; `group` is the moment and the invoke's rows."""
        moment, rows = group
        return own_part(seen(read_leaf(value, moment.place), moment.view, rows), moment.axes, rows)

    def widen(self, full: Any, group: Any, edited: Any) -> Any:
        """The value with the invoke's part of the tensor rewritten by `edited`; the original stays as it is."""
        moment, rows = group
        copied = self._copies.get(moment.place)
        tensor = read_leaf(full, moment.place).clone() if copied is None else copied
        edited(moment, own_part(seen(tensor, moment.view, rows), moment.axes, rows))
        if copied is not None:
            return full
        self._copies[moment.place] = tensor
        return replace_leaf(full, moment.place, tensor)

    def tracked(self, full: Any, moment: Moment) -> Any:
        """The value with its tensor in PyTorch's graph; it stays as it is now, so a later write makes another copy."""
        self._copies.pop(moment.place, None)
        tensor = read_leaf(full, moment.place)
        return full if tensor.requires_grad else replace_leaf(full, moment.place, tensor.detach().requires_grad_())


class Interleaver(interleaver.Interleaver):
    """Serves the jobs' moments in their order, drops jobs that are to stop, and ends the forward early."""

    def __init__(self, fragments: Fragments | None = None) -> None:
        super().__init__(fragments)
        self._walkers: list[Mediator] = []
        self._dropped: Callable[[], Sequence[object]] = tuple
        self._then: After = "stop"
        self.functions: set[str] = set()
        self.skips: Skips | None = None
        self.passing: Sequence[Passing] = ()

    def __enter__(self) -> Interleaver:
        super().__enter__()
        self.sourced.update(dict.fromkeys(self.functions))
        return self

    def begin(
        self,
        envoy: Envoy,
        parts: Sequence[Part],
        dropped: Callable[[], Sequence[object]],
        *,
        then: After = "stop",
    ) -> None:
        """Take in the jobs of the forward that follows, and what to do when nobody waits any more."""
        self._then = then
        self.counts.clear()
        self.batcher = _Batcher(envoy)
        self._dropped = dropped
        self._walkers = [
            Mediator(cursor, invoke, seat)
            for part in parts
            for cursor in (_Cursor(part),)
            for invoke, seat in part.seats.items()
        ]
        self.mediators = [*self._walkers]

    def end(self) -> None:
        """Let go of everything of this forward, however it ended."""
        self.interleaving = self.busy = False
        self.cancel()
        self.parked = set()
        self.functions = set()
        self.skips = None
        self.passing = ()
        self.sourced.clear()
        self._walkers = []
        self._dropped = tuple

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Put the forward that is under way aside, for others that come to their ends in the block."""
        kept = dict(vars(self))
        self.mediators, self.observers, self.parked = [], {}, set()
        self.counts, self.sourced = {}, {}
        self.batcher, self.interleaving, self.busy = None, False, False
        self._walkers, self._dropped, self._then = [], tuple, "stop"
        self.functions, self.skips, self.passing = set(), None, ()
        try:
            yield
        finally:
            vars(self).update(kept)

    def drop(self, owner: object) -> None:
        """Let everything of one owner take no further part."""
        for walker in self._walkers:
            if walker.cursor.owner is owner:
                walker.pending = None

    def miss(self) -> None:
        """The forward is over: fail the jobs that still wait for a place that it never reached."""
        for walker in self._walkers:
            if walker.pending is not None:
                waited = walker.pending.value.place
                self.drop(walker.cursor.owner)
                walker.cursor.job.fail(ExecutionError(f"the forward never came to '{waited}'"))

    def handle(self, provider: str, value: Any) -> Any:
        """Everything that happens at one place of the forward.

        Raises:
            Stop: nothing is left to happen.
        """
        if leaving := self._dropped():
            for owner in leaving:
                self.drop(owner)
            self._reindex_parked()
        if self.functions and provider.endswith(".fn"):
            self._open(provider.removesuffix(".fn"), value)
        for one in self.passing:
            value = one.pass_by(provider, value)
        if self.skips is not None and provider.endswith(".skip"):
            stand_in = self._stand_in(provider.removesuffix(".skip"), self.skips)
            return value if stand_in is None else stand_in
        if provider in self.parked:
            self.batcher.visit()
        value = super().handle(provider, value)
        if not self.parked:
            if self._then == "stop":
                raise Stop
            self.busy = self._then == "watch"
        return value

    def _stand_in(self, base: str, skips: Skips) -> torch.Tensor | None:
        """What to take for the output of a module that is about to run, if it need not."""
        output = f"{base}.output"
        waiting = [walker for walker in self._walkers if walker.pending is not None]
        if not waiting or not all(walker.comes_to(output) for walker in waiting):
            return None
        return skips.stand_in([(walker.awaited, walker.rows) for walker in waiting])

    def _open(self, base: str, function: Callable[..., Any]) -> None:
        """Let a function that is about to be called show its operations; it may be another one at each call."""
        bracket = source.make_op(lambda: (self, base) if self.interleaving else (None, None))
        self.sourced[base] = source.instrument(function, bracket)

    def _ready(self, provider: str) -> list[interleaver.Mediator]:
        return [walker for walker in self._walkers if walker.due(provider)]
