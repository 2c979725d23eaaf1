"""A job on its way through its forwards: its values, its time, and how it ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import Cancelled, TelepatchError, TimeLimit
from telepatch_worker import checkpoints
from telepatch_worker.accord import ALONE, Accord
from telepatch_worker.checkpoints import Keep, Shelf
from telepatch_worker.desk import boundless
from telepatch_worker.frame import Context, Frame, Model
from telepatch_worker.layout import Rows
from telepatch_worker.moments import Moment
from telepatch_worker.plan import Plan
from telepatch_worker.requests import Decode, Forward, Request
from telepatch_worker.trouble import as_job_error, bare

CHECKPOINT_SECONDS = 10.0
"""How often checkpoints are written where the author does not say."""

GO_ON, CANCELLED, OVER_TIME = range(3)
"""Verdicts on a job."""


class Clock:
    """Time of jobs that run together: what they share, apart from what each spends on its own values."""

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
        clock: of those with whom it runs.
        cancelled: tells the ids of cancelled jobs.
        rows, tokens: how much of a map runs at once.
        values: told small values as they come.
        decode: gives the text of token ids; None for a model without a tokenizer.
        keep: told the checkpoints of its fits now and then.
        together: whether it may apply modules together with others.
        accord: with those who run the same job on other shards of the model.
        room: tokens of a map that go into one turn.
    """

    def __init__(
        self,
        plan: Plan,
        model: Model,
        card: ModelCard,
        device: torch.device,
        clock: Clock,
        cancelled: Callable[[], set[str]],
        *,
        rows: int,
        tokens: int,
        values: Callable[[dict[str, Any]], None],
        decode: Callable[[list[int]], str] | None,
        keep: Keep,
        together: bool = True,
        accord: Accord = ALONE,
        room: Callable[[], int] = boundless,
    ) -> None:
        self.plan = plan
        self.accord = accord
        self.clock = clock
        self.cancelled = cancelled
        self.limit = min(plan.task.timeout_seconds or math.inf, card.limits.seconds(long=plan.long))
        self._keep = keep
        self._written = time.perf_counter()
        self.shelf = Shelf(checkpoints.decode(plan.task.checkpoint))
        self.own = plan.task.spent
        self._with_others = 0.0
        self._since: float | None = clock.shared()
        self._busy: float | None = None
        self.done = 0
        self.wanted: list[Request] = []
        self.error: TelepatchError | None = None
        self.saved: dict[str, torch.Tensor] | None = None
        self.warnings: list[str] = []
        self.context = context = Context(
            plan,
            model,
            card,
            device,
            self.check,
            self.fail,
            rows,
            tokens,
            values,
            decode,
            shelf=self.shelf,
            warnings=self.warnings,
            together=together,
            agree=accord.say,
            room=room,
        )
        self._frame = Frame(plan.root, context)
        self._work = self._frame.run(plan.task.graph.constants)

    @property
    def seconds(self) -> float:
        """Time that the job has taken: its own, and that of the forwards, on earlier workers too."""
        if self._since is not None:
            here = self.clock.shared() - self._since
        else:
            here = 0.0 if self._busy is None else time.perf_counter() - self._busy
        return self._with_others + here + self.own

    @property
    def over(self) -> bool:
        """Whether it has come to its end."""
        return self.error is not None or self.saved is not None

    def enter(self) -> None:
        """From now on, what the others share counts as its time, too."""
        if self._since is None:
            self._since = self.clock.shared()

    def leave(self) -> None:
        """What the others do from now on does not concern it."""
        if self._since is not None:
            self._with_others += self.clock.shared() - self._since
            self._since = None

    def advance(self) -> None:
        """Go on until the job needs something, or is over."""
        self.done += sum(one.steps if isinstance(one, Decode) else isinstance(one, Forward) for one in self.wanted)
        self.wanted = []
        if self.over:
            return
        try:
            with self.timed():
                while (wanted := next(self._work, None)) == []:
                    pass  # fits that wait for each other
                if wanted is None:
                    self.saved = self._frame.saved(self.plan.task.graph.saves)
                    self._frame.close()
                else:
                    self.wanted = wanted
                    self._write_now_and_then()
        except Exception as error:
            self.fail(error)

    def _write_now_and_then(self) -> None:
        """Hand out checkpoints, if it is time."""
        if self.shelf.urgent or time.perf_counter() - self._written > CHECKPOINT_SECONDS:
            self.write()

    def write(self) -> None:
        """Hand out checkpoints, if there are new ones."""
        if self.shelf.changed:
            self._keep(self.plan.id, self.shelf.taken(), self.seconds)
        self._written = time.perf_counter()

    def fail(self, error: Exception) -> None:
        """The job is over; its neighbours go on."""
        if self.error is None:
            self.error = bare(as_job_error(error))
            self.accord.failed(self.plan.id, self.error.code())
        self.wanted = []
        self._work.close()
        self._frame.close()

    def check(self) -> None:
        """Raise if the job has to stop.

        Raises:
            Cancelled: its owner asked for it.
            TimeLimit: it takes longer than it may.
        """
        if self.accord.due() and (reason := self._reason(self.accord.say(self.verdict()))) is not None:
            raise reason

    def verdict(self) -> int:
        """Whether the job has to stop, and why: a number, as workers agree on it."""
        if self.plan.id in self.cancelled():
            return CANCELLED
        return OVER_TIME if self.seconds > self.limit else GO_ON

    def heed(self, verdict: int) -> None:
        """Fail the job if it has to stop."""
        if (reason := self._reason(verdict)) is not None:
            self.fail(reason)

    def _reason(self, verdict: int) -> TelepatchError | None:
        if verdict == CANCELLED:
            return Cancelled(f"job {self.plan.id} was cancelled while it ran")
        if verdict == OVER_TIME:
            own = self.plan.task.timeout_seconds == self.limit
            whose = "it was given" if own else "the limit of this model is"
            return TimeLimit(f"the job ran for {self.seconds:.1f} s; {whose} {self.limit:g} s")
        return None

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time that the job spends on its own values."""
        self._busy = began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            self._busy = None
            self.own += took
            self.clock.spent += took


class Station:
    """A scope of a job in one forward: what it does there counts as the job's own time.

    Args:
        run: the job.
        frame: the scope.
    """

    def __init__(self, run: Running, frame: Frame) -> None:
        self._run = run
        self._frame = frame

    def read(self, moment: Moment, value: torch.Tensor) -> None:
        """Take the value at a place."""
        with self._run.timed():
            self._frame.read(moment, value)

    def write(self, moment: Moment, region: torch.Tensor) -> None:
        """Change the value at a place."""
        with self._run.timed():
            self._frame.write(moment, region)

    def track(self, moment: Moment, tensor: torch.Tensor, rows: Rows) -> None:
        """Keep a tensor of which gradients are asked."""
        self._frame.track(moment, tensor, rows)

    def fail(self, error: Exception) -> None:
        """The job is over; its neighbours go on."""
        self._run.fail(error)


def stopped(runs: Sequence[Running]) -> list[Running]:
    """Those of some jobs that have to stop, failed; all are asked at once."""
    going = [run for run in runs if run.error is None]
    if going:
        for run, verdict in zip(going, going[0].accord.says([run.verdict() for run in going]), strict=True):
            run.heed(verdict)
    return [run for run in runs if run.error is not None]


class Watch:
    """Tells which jobs of a forward have to stop; asked at every site, so nearly always quick.

    Args:
        runs: the jobs that take part.
    """

    def __init__(self, runs: Sequence[Running]) -> None:
        self._runs = runs
        self._cancelled = runs[0].cancelled
        self._accord = runs[0].accord
        self._first = self._earliest()
        self._asked = False

    def __call__(self) -> Sequence[Running]:
        """Those that have to stop here."""
        due, self._asked = self._accord.due() or not self._asked, True
        if not due or not self._accord.say(self._news()):
            return ()
        self._first = self._earliest()
        going = [run for run in self._runs if run.error is None]
        return stopped(going)

    def _news(self) -> bool:
        """Whether anything may have happened."""
        return time.perf_counter() >= self._first or bool(self._cancelled())

    def _earliest(self) -> float:
        """Before this time no job is over its limit: what jobs spend on their own values only puts it off."""
        return time.perf_counter() + min(run.limit - run.seconds for run in self._runs)
