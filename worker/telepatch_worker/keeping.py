"""Checkpoints on their way to where they are safe: the newest of each job, one at a time."""

from __future__ import annotations

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
        self._waiting: dict[str, bytes] = {}
        self._writing: set[str] = set()

    def keep(self, job: str, data: bytes) -> None:
        """Have it written."""
        self._waiting[job] = data
        if job not in self._writing:
            self._writing.add(job)
            self._spawn(self._write(job))

    async def _write(self, job: str) -> None:
        try:
            while (data := self._waiting.pop(job, None)) is not None:
                mine = await self._lane.checkpoint(job, self._worker, data)
                _log.info("checkpoint_written", job=job, bytes=len(data), mine=mine)
        finally:
            self._writing.discard(job)
