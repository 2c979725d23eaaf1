"""Jobs that train: they run in turns, one after the other with everybody else's forwards in between."""

from __future__ import annotations

import time
from collections import deque

import torch

from telepatch_protocol.graph import Fit, Graph
from telepatch_protocol.subgraphs import all_nodes
from telepatch_worker import checkpoints
from telepatch_worker.engine import Desk, Engine, Outcome, Task
from telepatch_worker.running import Running
from telepatch_worker.trouble import as_job_error, bare, is_memory


def is_long(graph: Graph) -> bool:
    """Whether a job may take so long that it has to run in turns."""
    return any(isinstance(node, Fit) for node in all_nodes(graph))


class Turns:
    """Jobs in hand that run in turns.

    Args:
        engine: that runs them; nothing else runs on it during a turn.
        desk: whom they talk to.
    """

    def __init__(self, engine: Engine, desk: Desk) -> None:
        self._engine = engine
        self._desk = desk
        self._jobs: deque[_Job] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, task: Task) -> None:
        """One more; a job that cannot run fails at once."""
        try:
            self._jobs.append(_Job(self._engine, task, self._desk))
        except Exception as error:
            self._desk.settled.add(Outcome(task.id, None, bare(as_job_error(error))))

    def turn(self, seconds: float) -> None:
        """Let the next job go on for so long, or a little longer: a step of it is not cut."""
        if not self._jobs:
            return
        job = self._jobs.popleft()
        outcome = job.turn(seconds)
        if outcome is None:
            self._jobs.append(job)
        else:
            self._desk.settled.add(outcome)

    def put_down(self) -> None:
        """Write down how far each has come: somebody else goes on with them."""
        for job in self._jobs:
            job.put_down()
        self._jobs.clear()


class _Job:
    """One job that runs in turns."""

    def __init__(self, engine: Engine, task: Task, desk: Desk) -> None:
        self._engine = engine
        self._desk = desk
        self._plan = engine.plan(task)
        self._limits = engine.limits
        self._run: Running | None = None
        self._left = 0.0
        self._told = (0, 0)

    def turn(self, seconds: float) -> Outcome | None:
        """Go on; how it ended, if it did."""
        until = time.perf_counter() + seconds
        run = self._resumed()
        with torch.set_grad_enabled(True), self._engine.adapters.set_to(self._plan.adapter):
            while not run.over and time.perf_counter() < until:
                self._go_on(run)
        self._left = time.perf_counter()
        self._tell(run)
        if not run.over:
            return None
        if run.error is not None and is_memory(run.error) and self._again(run):
            return None
        warnings = (*self._plan.checked.warnings, *run.warnings)
        return Outcome(self._plan.id, run.saved, run.error, warnings, run.seconds)

    def put_down(self) -> None:
        """Write down how far it has come."""
        if self._run is not None:
            self._run.write()

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
                self._engine.round([run], self._limits)
            run.advance()
        except Exception as error:
            run.fail(as_job_error(error, "the model"))

    def _again(self, run: Running) -> bool:
        """From the last checkpoint on in forwards of half the size, if there is anything to halve."""
        if self._limits.rows == 1:
            return False
        self._limits = self._limits.halved()
        self._plan = self._engine.plan(self._plan.task.begun(checkpoints.encode(run.shelf.kept)))
        self._run = None
        return True
