"""Results on their way to the queue: small ones that come at the same time go together, a large one by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

import structlog

from telepatch_broker.connection import LOST
from telepatch_broker.jobs import Completion
from telepatch_broker.lane import Lane
from telepatch_protocol.errors import ErrorRecord, ExecutionError, TelepatchError
from telepatch_worker import results
from telepatch_worker.desk import Outcome

SMALL_BYTES = 64 * 1024
"""Results up to here go together."""

PATIENCE_SECONDS = 60.0
"""How long it is tried to tell a queue that is away; after that others do the job again."""

_PAUSE_SECONDS = 1.0
_log = structlog.get_logger(__name__)


class Owner(Protocol):
    """Whose jobs they are."""

    def gone(self, job: str) -> bool:
        """Whether the job is not this worker's any more."""

    async def before_end(self, job: str) -> None:
        """Send what has to be there before the job ends."""

    def handed_in(self, outcome: Outcome) -> None:
        """The job is over; or something went wrong, and it is tried again once its lease runs out."""


class HandingIn:
    """Hands in how jobs ended.

    Args:
        lane: where it is told.
        worker: id of this worker.
        owner: whose jobs they are.
        spawn: lets something happen beside.
    """

    def __init__(
        self, lane: Lane, worker: str, owner: Owner, spawn: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._lane, self._worker, self._owner, self._spawn = lane, worker, owner, spawn
        self._waiting: list[Outcome] = []
        self._going = False

    def add(self, outcome: Outcome) -> None:
        """One more has ended."""
        if outcome.saved is None:
            self._spawn(self._in_hand([outcome], self._failed))
        elif sum(tensor.nbytes for tensor in outcome.saved.values()) > SMALL_BYTES:
            self._spawn(self._in_hand([outcome], self._completed))
        else:
            self._waiting.append(outcome)
            self._go()

    def _go(self) -> None:
        if self._waiting and not self._going:
            self._going = True
            self._spawn(self._small())

    async def _small(self) -> None:
        """Everything that has come, and what comes meanwhile after that."""
        try:
            while self._waiting:
                some, self._waiting = self._waiting, []
                await self._in_hand(some, self._completed)
        finally:
            self._going = False
            self._go()

    async def _in_hand(self, outcomes: Sequence[Outcome], act: Callable[[Sequence[Outcome]], Awaitable[None]]) -> None:
        try:
            mine = [one for one in outcomes if not self._owner.gone(one.id)]
            for one in mine:
                await self._owner.before_end(one.id)
            await self._until_heard(mine, act)
        finally:
            for one in outcomes:
                self._owner.handed_in(one)

    async def _until_heard(
        self, outcomes: Sequence[Outcome], act: Callable[[Sequence[Outcome]], Awaitable[None]]
    ) -> None:
        """Tell the queue, again and again while it is away or does not write: what came of a job is not to be lost."""
        until = time.monotonic() + PATIENCE_SECONDS
        while mine := [one for one in outcomes if not self._owner.gone(one.id)]:
            try:
                await act(mine)
                return
            except LOST as error:
                if time.monotonic() > until:
                    raise
                _log.warning("queue_does_not_take_results", kind=type(error).__name__, jobs=len(mine))
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _completed(self, outcomes: Sequence[Outcome]) -> None:
        """Store what was saved. What cannot be stored fails alone."""
        try:
            found = await asyncio.to_thread(lambda: [_completion(one) for one in outcomes])
            await self._lane.complete_all(found, self._worker)
        except LOST:
            raise
        except (TelepatchError, OSError, RuntimeError) as error:
            if len(outcomes) > 1:
                for one in outcomes:
                    await self._completed([one])
                return
            failed = ExecutionError(f"the result could not be stored: {error}")
            await self._fail(outcomes[0], failed.record())

    async def _failed(self, outcomes: Sequence[Outcome]) -> None:
        for one in outcomes:
            await self._fail(one, one.record or ExecutionError("the job ended without a result").record())

    async def _fail(self, outcome: Outcome, record: ErrorRecord) -> None:
        await self._lane.fail(outcome.id, self._worker, record, warnings=outcome.warnings, seconds=outcome.seconds)


def _completion(outcome: Outcome) -> Completion:
    saved = outcome.at_hand()
    return Completion(
        outcome.id,
        results.metas(saved),
        results.encode(saved),
        warnings=outcome.warnings,
        seconds=outcome.seconds,
    )
