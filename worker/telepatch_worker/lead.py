"""Rank 0 of those that hold one model together: it alone has the queue, and tells the others each step that it takes.

The others take the same steps (`follow`). How jobs ended is told only once all ranks say the same of it, so that
nothing is handed in that a rank which is about to die has spoilt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from telepatch_worker import task_frames
from telepatch_worker.desk import Desk, Outcome, Settled, always
from telepatch_worker.engine import Engine, Task
from telepatch_worker.floor import Floor
from telepatch_worker.long import LongJob, Turns
from telepatch_worker.pauses import UNBROKEN, Pauses
from telepatch_worker.ranks import Ranks, leave


class Held(Settled):
    """Keeps how jobs ended until all ranks say the same.

    Args:
        ranks: which.
        ended: told then.
    """

    def __init__(self, ranks: Ranks, ended: Callable[[Outcome], None]) -> None:
        super().__init__(ended)
        self._ranks = ranks
        self._kept: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self._kept.append(outcome)

    def agree(self) -> None:
        """All ranks are at the end of the same step: tell what came of it."""
        kept, self._kept = self._kept, []
        self._ranks.same("over", [_ending(outcome) for outcome in kept])
        for outcome in kept:
            super().add(outcome)


def _ending(outcome: Outcome) -> list[Any]:
    saved = None if outcome.saved is None else [[name, *value.shape] for name, value in sorted(outcome.saved.items())]
    return [outcome.id, saved, outcome.error.code() if outcome.error is not None else ""]


class _Together:
    """Steps that all ranks take."""

    def __init__(self, ranks: Ranks, held: Held) -> None:
        self.ranks = ranks
        self.held = held

    @contextmanager
    def step(self, kind: str, words: Any = None, body: bytes = b"") -> Iterator[None]:
        """Tell the others of a step, take it, and see that all have come to its end alike."""
        self.ranks.tell(kind, words, body)
        try:
            yield
        except BaseException as error:  # what no job is to blame for: nobody knows where the others are
            leave(f"'{kind}' raised {type(error).__name__}: {error}")
        self.held.agree()


class LeadFloor(Floor):
    """The floor, on all ranks."""

    def __init__(self, engine: Engine, desk: Desk, proceed: Callable[[], bool], ranks: Ranks) -> None:
        held = Held(ranks, desk.settled.add)
        self._all = _Together(ranks, held)
        super().__init__(engine, replace(desk, settled=held), proceed)

    def add(self, tasks: Iterable[Task]) -> None:
        """Take jobs in."""
        tasks = list(tasks)
        with self._all.step("add", *task_frames.encode(tasks)):
            super().add(tasks)

    def turn(self) -> None:
        """Everybody's next forwards."""
        with self._all.step("turn"):
            super().turn()


class LeadTurns(Turns):
    """Jobs that train, on all ranks."""

    def __init__(self, engine: Engine, desk: Desk, ranks: Ranks) -> None:
        held = Held(ranks, desk.settled.add)
        self._all = _Together(ranks, held)
        super().__init__(engine, replace(desk, settled=held))

    def add(self, task: Task) -> None:
        """One more."""
        with self._all.step("train", *task_frames.encode([task])):
            super().add(task)

    def turn(self, seconds: float) -> LongJob | None:
        """Let the next job go on."""
        with self._all.step("go on", seconds):
            return super().turn(seconds)

    def remove(self, job: LongJob) -> None:
        """Somebody else goes on with it."""
        with self._all.step("remove", job.id):
            super().remove(job)

    def ask(self, job: LongJob) -> None:
        """Have a job come to where it can be put down."""
        with self._all.step("ask", job.id):
            super().ask(job)

    def another_slice(self, job: LongJob) -> None:
        """Nobody else wants a turn."""
        with self._all.step("another slice", job.id):
            super().another_slice(job)

    def put_down(self, seconds: float) -> None:
        """Write down how far each has come."""
        with self._all.step("put down", seconds):
            super().put_down(seconds)


class Lead:
    """How a worker runs jobs: by itself, or with other ranks.

    Args:
        ranks: those, if there are any.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        self._ranks = ranks

    def floor(self, engine: Engine, desk: Desk, proceed: Callable[[], bool] = always) -> Floor:
        """A floor with nobody on it."""
        return Floor(engine, desk, proceed) if self._ranks is None else LeadFloor(engine, desk, proceed, self._ranks)

    def turns(self, engine: Engine, desk: Desk, pauses: Pauses = UNBROKEN) -> Turns:
        """No jobs that train, so far. On several ranks their steps are not broken by pauses."""
        return Turns(engine, desk, pauses) if self._ranks is None else LeadTurns(engine, desk, self._ranks)
