"""What jobs stream while they run: gathered for a moment, told in order, and whole before a job ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

Tell = Callable[[str, dict[str, Any]], Awaitable[Any]]

GATHER_SECONDS = 0.05
"""For how long values are gathered before they go out as one event."""

MOST_BYTES = 64 * 1024
"""About how large one event is at most."""


class Streams:
    """Values of running jobs on their way to their owners. Lives in one event loop.

    Args:
        tell: sends one event of a job.
        spawn: runs work beside everything else.
    """

    def __init__(self, tell: Tell, spawn: Callable[[Any], None]) -> None:
        self._tell = tell
        self._spawn = spawn
        self._waiting: dict[str, list[dict[str, Any]]] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    def add(self, job: str, values: dict[str, Any]) -> None:
        """One more entry; the first of a moment has all of them sent at its end."""
        if job not in self._waiting:
            self._waiting[job] = []
            self._spawn(self._later(job))
        self._waiting[job].append(values)

    async def flush(self, job: str) -> None:
        """Send what waits; when this returns, everything that was added before has gone out."""
        if job not in self._waiting and job not in self._turns:
            return
        async with self._turns.setdefault(job, asyncio.Lock()):
            for part in _parts(self._waiting.pop(job, [])):
                await self._tell(job, {"values": part})

    def forget(self, job: str) -> None:
        """The job has ended."""
        self._waiting.pop(job, None)
        self._turns.pop(job, None)

    async def _later(self, job: str) -> None:
        await asyncio.sleep(GATHER_SECONDS)
        if job in self._waiting:
            await self.flush(job)


def _parts(entries: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Neighbours together, as many as one event holds."""
    found: list[list[dict[str, Any]]] = []
    room = 0
    for entry in entries:
        size = len(json.dumps(entry))
        if not found or size > room:
            found.append([])
            room = MOST_BYTES
        found[-1].append(entry)
        room -= size
    return found
