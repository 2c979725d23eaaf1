"""Those who come while a job trains: their jobs go onto the floor in the middle of its step, in the engine's thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch

from telepatch_worker.engine import Task
from telepatch_worker.floor import Floor
from telepatch_worker.pauses import Pauses

_LIKELY_SECONDS = 30.0
"""For so long after somebody was there others are expected."""

_LEAST_SECONDS, _MOST_SECONDS = 0.02, 1.0
"""How long a step goes on at least, and at most, before it makes a pause."""


class Visitors(Pauses):
    """Gives pauses to a floor: one turn of it each, after about as long as its last one took.

    Args:
        floor: gives the floor, or None.
        aside: puts the forward that is under way aside while another one runs.

    Attributes:
        fault: what went wrong with the floor, which then must not be used any more.
        took: seconds that it has had, in all.
    """

    def __init__(self, floor: Callable[[], Floor | None], aside: Callable[[], AbstractContextManager[None]]) -> None:
        self._floor = floor
        self._aside = aside
        self._door: deque[Task] = deque()
        self._here = -_LIKELY_SECONDS
        self._since = self._last = self.took = 0.0
        self.fault: BaseException | None = None

    @property
    def likely(self) -> bool:
        """Whether somebody may be waiting."""
        return time.perf_counter() - self._here < _LIKELY_SECONDS

    def __len__(self) -> int:
        return len(self._door)

    def seen(self) -> None:
        """Somebody was there just now."""
        self._here = time.perf_counter()

    def come(self, tasks: Iterable[Task]) -> None:
        """Some more; from any thread."""
        self._door.extend(tasks)

    def left(self) -> list[Task]:
        """Those for whom there was no pause any more."""
        return [self._door.popleft() for _ in range(len(self._door))]

    def offer(self) -> None:
        """A turn of the floor, if anybody is there and the time has come."""
        floor = self._floor()
        if floor is None or self.fault is not None or not (self._door or floor.busy):
            return
        if time.perf_counter() - self._since < min(max(self._last, _LEAST_SECONDS), _MOST_SECONDS):
            return
        began = time.perf_counter()
        try:
            with self._aside(), torch.enable_grad():  # as it is outside of a backward pass
                floor.add(self.left())
                floor.turn()
        except BaseException as error:
            self.fault = error  # not that of the job that trains
        self.seen()
        self._since = time.perf_counter()
        self._last = self._since - began
        self.took += self._last
