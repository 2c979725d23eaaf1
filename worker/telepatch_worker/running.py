"""A job on its way through its forwards: its values, its time, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import Cancelled, TelepatchError, TimeLimit
from telepatch_worker.evaluate import Evaluation, Model
from telepatch_worker.interleave import Moment
from telepatch_worker.plan import Plan
from telepatch_worker.trouble import as_job_error, bare


class Clock:
    """Time of a batch: what its jobs share, apart from what each spends on its own values."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.spent = 0.0

    def shared(self) -> float:
        """Seconds since the beginning that no job spent on its own."""
        return time.perf_counter() - self.began - self.spent


class Running:
    """One job that runs.

    Args:
        plan: of the job.
        model: that it runs on.
        card: of the model.
        device: where values live.
        clock: of the batch.
        cancelled: tells the ids of cancelled jobs.
    """

    def __init__(
        self,
        plan: Plan,
        model: Model,
        card: ModelCard,
        device: torch.device,
        clock: Clock,
        cancelled: Callable[[], set[str]],
    ) -> None:
        self.plan = plan
        self.clock = clock
        self.cancelled = cancelled
        self.limit = card.limits.max_seconds
        self.own = 0.0
        self.error: TelepatchError | None = None
        self.saved: dict[str, torch.Tensor] | None = None
        self._evaluation = Evaluation(plan, model, card, device, self.check)

    @property
    def seconds(self) -> float:
        """Time that the job has taken: its own, and that of the forwards."""
        return self.clock.shared() + self.own

    def start(self) -> None:
        """Compute what needs no forward."""
        self._do(self._evaluation.start)

    def read(self, moment: Moment, value: torch.Tensor) -> None:
        """Take the value at a place."""
        with self._timed():
            self._evaluation.read(moment, value)

    def write(self, moment: Moment, region: torch.Tensor) -> None:
        """Change the value at a place."""
        with self._timed():
            self._evaluation.write(moment, region)

    def fail(self, error: Exception) -> None:
        """The job is over; its neighbours go on."""
        self.error = self.error or bare(as_job_error(error))
        self._evaluation.clear()

    def finish(self) -> None:
        """Collect what is saved, and let go of everything else."""

        def collect() -> None:
            self.saved = self._evaluation.saved()

        self._do(collect)
        self._evaluation.clear()

    def check(self) -> None:
        """Raise if the job has to stop.

        Raises:
            Cancelled: its owner asked for it.
            TimeLimit: it takes longer than it may.
        """
        if self.plan.id in self.cancelled():
            raise Cancelled(f"job {self.plan.id} was cancelled while it ran")
        if self.seconds > self.limit:
            raise TimeLimit(f"the job ran for {self.seconds:.1f} s; the limit of this model is {self.limit:g} s")

    def stops(self) -> bool:
        """Whether the job has to stop; it is failed then."""
        try:
            self.check()
        except TelepatchError as error:
            self.fail(error)
        return self.error is not None

    def _do(self, work: Callable[[], None]) -> None:
        """Work of the job outside of forwards, unless it is over."""
        if self.error is not None:
            return
        try:
            with self._timed():
                work()
        except Exception as error:
            self.fail(error)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            self.own += took
            self.clock.spent += took


class Watch:
    """Tells which jobs of a forward have to stop; asked at every site, so nearly always quick.

    Args:
        runs: the jobs that take part.
    """

    def __init__(self, runs: Sequence[Running]) -> None:
        self._runs = runs
        self._cancelled = runs[0].cancelled
        self._first = self._earliest()

    def __call__(self) -> Sequence[Running]:
        """Those that have to stop here."""
        if time.perf_counter() < self._first and not self._cancelled():
            return ()
        self._first = self._earliest()
        return [run for run in self._runs if run.error is None and run.stops()]

    def _earliest(self) -> float:
        """Before this time no job is over its limit: what jobs spend on their own values only puts it off."""
        clock = self._runs[0].clock
        return clock.began + clock.spent + self._runs[0].limit - max(run.own for run in self._runs)
