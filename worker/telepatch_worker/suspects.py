"""Jobs that were in hand when a worker was lost: each begins alone, so that one that kills workers takes none along."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from telepatch_broker.jobs import TakenJob
from telepatch_worker.plan import Task

ALONE_SECONDS = 2.0
"""One that has run for so long without harm is like any other, and others may join it."""

DRAINING_SECONDS = 5.0
"""How long one waits until those in hand have ended; after that it begins beside them."""


def suspect(job: TakenJob | None) -> bool:
    """Whether a worker was lost that had this job; one that trains is none, as it has checkpoints and takes long."""
    return job is not None and job.attempt > 1 and job.lane == "interactive"


def sort_out(
    taken: Sequence[TakenJob], mine: Mapping[str, TakenJob], lost: Collection[str]
) -> tuple[list[TakenJob], list[str]]:
    """Which of those that were taken are new here, and the ids of those to give back.

    A worker that was held up may have lost jobs and get them again: those that still run here just go on; those that
    are being stopped are for later. And nothing that trains begins beside a suspect.
    """
    some = any(suspect(job) for job in taken)
    back = [job.id for job in taken if job.id in lost or (some and job.lane == "long" and job.id not in mine)]
    return [job for job in taken if job.id not in mine and job.id not in back], back


class Suspects:
    """Those that wait to begin, and the one that has begun last."""

    def __init__(self) -> None:
        self._waiting: deque[Task] = deque()
        self._since = 0.0
        self._alone: str | None = None
        self._began = 0.0

    @property
    def closed(self) -> bool:
        """Whether nobody else is to be taken in hand now."""
        return bool(self._waiting) or (self._alone is not None and time.monotonic() - self._began < ALONE_SECONDS)

    def part(self, tasks: Sequence[Task], mine: Mapping[str, TakenJob], *, empty: bool) -> list[Task]:
        """Those that begin now: all that are no suspects; or one that is.

        Args:
            tasks: what was taken.
            mine: the jobs in hand.
            empty: whether nothing runs.
        """
        for task in tasks:
            if suspect(mine.get(task.id)):
                self._since = self._since if self._waiting else time.monotonic()
                self._waiting.append(task)
        begin = [task for task in tasks if not suspect(mine.get(task.id))]
        if self._waiting and ((empty and not begin) or time.monotonic() - self._since > DRAINING_SECONDS):
            task = self._waiting.popleft()
            self._alone, self._began, self._since = task.id, time.monotonic(), time.monotonic()
            begin.append(task)
        return begin

    def ended(self, job: str) -> None:
        """A job is not in hand any more."""
        if self._alone == job:
            self._alone = None
