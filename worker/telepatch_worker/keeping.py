"""Checkpoints on their way to where they are safe: the newest of each job, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from telepatch_broker.lane import Lane

_log = structlog.get_logger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None]], None]


class Keeper:
    """Writes checkpoints of jobs; one that comes while another is being written waits, and only the newest does.

    Args:
        lane: where they go.
        worker: id of this worker.
        spawn: lets something happen beside.
    """

    def __init__(self, lane: Lane, worker: str, spawn: Spawn) -> None:
        self._lane, self._worker, self._spawn = lane, worker, spawn
        self._waiting: dict[str, tuple[bytes, float]] = {}
        self._writing: dict[str, asyncio.Future[bool]] = {}

    def keep(self, job: str, data: bytes, seconds: float) -> None:
        """Have it written, with the seconds that it took to come there."""
        self._waiting[job] = data, seconds
        if job not in self._writing:
            self._writing[job] = asyncio.get_running_loop().create_future()
            self._spawn(self._write(job))

    async def written(self, job: str) -> bool:
        """Wait for what is being written of a job; whether all of it arrived."""
        writing = self._writing.get(job)
        return True if writing is None else await writing

    async def _write(self, job: str) -> None:
        arrived = False
        try:
            while (found := self._waiting.pop(job, None)) is not None:
                data, seconds = found
                mine = await self._lane.checkpoint(job, self._worker, data, seconds=seconds)
                _log.info("checkpoint_written", job=job, bytes=len(data), mine=mine)
            arrived = True
        finally:
            self._writing.pop(job).set_result(arrived)
