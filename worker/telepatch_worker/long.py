"""Jobs that train: they run in turns, one after the other with everybody else's forwards in between."""

from __future__ import annotations

import time
from collections import deque

from telepatch_worker import checkpoints
from telepatch_worker.engine import Desk, Engine, Outcome, Task
from telepatch_worker.pauses import UNBROKEN, Breaks, Pauses
from telepatch_worker.running import Running
from telepatch_worker.trouble import as_job_error, bare, is_memory

_SHORT_TURN_SECONDS = 0.05


class Turns:
    """Jobs in hand that run in turns.

    Args:
        engine: that runs them; nothing else runs on it during a turn.
        desk: whom they talk to.
        pauses: offered in the middle of a step.
    """

    def __init__(self, engine: Engine, desk: Desk, pauses: Pauses = UNBROKEN) -> None:
        self._engine = engine
        self._desk = desk
        self._pauses = pauses
        self._jobs: deque[LongJob] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, task: Task) -> None:
        """One more; a job that cannot run fails at once."""
        try:
            self._jobs.append(LongJob(self._engine, task, self._desk, self._pauses))
        except Exception as error:
            self._desk.settled.add(Outcome(task.id, None, bare(as_job_error(error))))

    def turn(self, seconds: float) -> LongJob | None:
        """Let the next job go on for so long, or a little longer: a step of it is not cut.

        Returns:
            The job, if it goes on after that.
        """
        if not self._jobs:
            return None
        job = self._jobs.popleft()
        outcome = job.turn(seconds)
        if outcome is None:
            self._jobs.append(job)
            return job
        self._desk.settled.add(outcome)
        return None

    def remove(self, job: LongJob) -> None:
        """Somebody else goes on with it."""
        self._jobs.remove(job)

    def job(self, id: str) -> LongJob:
        """One of them by its id."""
        return next(job for job in self._jobs if job.id == id)

    def ask(self, job: LongJob) -> None:
        """Have a job come to where it can be put down."""
        job.ask()

    def another_slice(self, job: LongJob) -> None:
        """Nobody else wants a turn."""
        job.another_slice()

    def put_down(self, seconds: float) -> None:
        """Write down how far each has come: others go on with them. It may take so many seconds to get there."""
        until = time.perf_counter() + seconds
        while self._jobs:
            job = self._jobs.popleft()
            if (outcome := job.come_to_rest(until)) is not None:
                self._desk.settled.add(outcome)


class LongJob:
    """One job that runs in turns.

    Args:
        engine: that runs it.
        task: the job.
        desk: whom it talks to.
        pauses: offered in the middle of a step.
    """

    def __init__(self, engine: Engine, task: Task, desk: Desk, pauses: Pauses = UNBROKEN) -> None:
        self._engine = engine
        self._desk = desk
        self._plan = engine.plan(task)
        self._pauses = UNBROKEN if self._plan.eager else pauses  # the others' forwards are not to run under it
        self._limits = engine.limits
        self._run: Running | None = None
        self._left = 0.0
        self._told = (0, 0)
        self._began = time.perf_counter()
        self._asked = False

    @property
    def id(self) -> str:
        """Of the job."""
        return self._plan.id

    @property
    def ready(self) -> bool:
        """Whether it was asked to be put down, and can be."""
        return self._asked and self._run is not None and self._run.shelf.ready

    def slice_over(self, seconds: float) -> bool:
        """Whether it has trained for so long, or for as long as it took to begin with that, if that is longer.

        What comes before training is done again by whoever goes on with the job: it must not be most of its time.
        """
        if self._asked or self._run is None or (since := self._run.shelf.since) is None:
            return False
        return time.perf_counter() - since >= max(seconds, since - self._began)

    def another_slice(self) -> None:
        """Nobody else wants a turn."""
        if self._run is not None:
            self._began = self._run.shelf.since = time.perf_counter()
        self._asked = False

    def ask(self) -> None:
        """Have it come to where it can be put down."""
        if self._run is not None:
            self._run.shelf.ask()
        self._asked = True

    def turn(self, seconds: float) -> Outcome | None:
        """Go on; how it ended, if it did."""
        until = time.perf_counter() + seconds
        run = self._resumed()
        with self._engine.under(self._plan):
            while not run.over and not self.ready and self._before(until):
                self._go_on(run)
        self._left = time.perf_counter()
        self._tell(run)
        if not run.over:
            return None
        if run.error is not None and is_memory(run.error) and self._again(run):
            return None
        warnings = (*self._plan.checked.warnings, *run.warnings)
        return Outcome(self._plan.id, run.saved, run.error, warnings, run.seconds)

    def come_to_rest(self, until: float) -> Outcome | None:
        """Go on until it can be put down, and write down how far it has come; how it ended, if it did."""
        if self._run is None:
            return None
        self.ask()
        while not self.ready and self._before(until):
            if (outcome := self.turn(_SHORT_TURN_SECONDS)) is not None:
                return outcome
        self.write()
        return None

    def write(self) -> None:
        """Write down how far it has come."""
        if self._run is not None:
            self._run.write()

    def _before(self, until: float) -> bool:
        """Whether there is time left; all who run the job agree on it."""
        return bool(self._engine.accord.say(time.perf_counter() < until))

    def _tell(self, run: Running) -> None:
        """Say how far it is, if it has come further."""
        if run.context.stage != self._told:
            self._told = run.context.stage
            self._desk.progress(self._plan.id, *self._told)

    def _resumed(self) -> Running:
        if self._run is None:
            self._run = self._engine.running(self._plan, self._desk, self._limits)
        else:
            self._run.clock.began += time.perf_counter() - self._left  # waiting is no time of its own
        return self._run

    def _go_on(self, run: Running) -> None:
        try:
            if run.wanted:
                self._engine.round([run], self._limits, Breaks(self._pauses, run.clock))
            run.advance()
        except Exception as error:
            run.fail(as_job_error(error, "the model"))

    def _again(self, run: Running) -> bool:
        """From the last checkpoint on in forwards of half the size, if there is anything to halve."""
        if self._limits.rows == 1:
            return False
        self._limits = self._limits.halved()
        self._plan = self._engine.plan(self._plan.task.begun(checkpoints.encode(run.shelf.kept), run.seconds))
        self._run, self._asked = None, False
        return True
