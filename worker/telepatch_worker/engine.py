"""The engine: runs jobs on a model, many in one forward, each as if it ran alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from telepatch_protocol.errors import BadArgument, ErrorRecord, TelepatchError
from telepatch_worker.attention import attention
from telepatch_worker.batch import groups, halves, pack
from telepatch_worker.interleave import Interleaved, Part
from telepatch_worker.load import Loaded
from telepatch_worker.plan import Plan, Task, make_plan
from telepatch_worker.running import Clock, Running, Watch
from telepatch_worker.trouble import as_job_error, bare, is_memory

__all__ = ["BatchLimits", "Engine", "Outcome", "Task"]

Progress = Callable[[str, int, int], None]
"""Told the id of a job, how many of its forwards are done, and how many there are."""


@dataclass(frozen=True)
class BatchLimits:
    """How much goes into one forward.

    Attributes:
        tokens: positions, padding included.
        rows: rows.
    """

    tokens: int = 16_384
    rows: int = 256

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.rows < 1:
            raise ValueError(f"a batch holds at least one token and one row; found {self}")


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        id: of the job.
        saved: tensors by name, on the model's device; None where it failed.
        error: why it failed; None where it did not.
        warnings: what is allowed but surely not meant.
        seconds: time it took, that of shared forwards included.
    """

    id: str
    saved: dict[str, torch.Tensor] | None
    error: TelepatchError | None = None
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def record(self) -> ErrorRecord | None:
        """The error as data."""
        return None if self.error is None else self.error.record()


def _quiet(job: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def _unheard(outcome: Outcome) -> None:
    """An end that nobody waits for."""


def _always() -> bool:
    """Go on."""
    return True


class _Settled:
    """How jobs ended, as far as they have."""

    def __init__(self, ended: Callable[[Outcome], None]) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._ended = ended

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.outcomes[outcome.id] = outcome
        self._ended(outcome)


@dataclass(frozen=True)
class _Desk:
    """Whom a batch talks to."""

    cancelled: Callable[[], set[str]]
    progress: Progress
    settled: _Settled


class Engine:
    """Runs jobs on one loaded model. One call of `run` at a time.

    Args:
        loaded: the model.
        limits: of one forward.

    Example:
        >>> engine = Engine(load(Path("models/gpt2-random.toml"), cache=cache))
        >>> graph = wire.decode('{"protocol": [1, 0], "model": {"id": "gpt2-random"}, ...}')
        >>> [outcome] = engine.run([Task("job-1", graph)])
        >>> outcome.saved["logits"].shape
        torch.Size([1, 257])
    """

    def __init__(self, loaded: Loaded, limits: BatchLimits | None = None) -> None:
        self.loaded = loaded
        self.card = loaded.card
        self.limits = limits or BatchLimits()
        self.model = Interleaved(loaded.module)
        self._pad = _padding(loaded)

    def run(
        self,
        tasks: Sequence[Task],
        *,
        cancelled: Callable[[], set[str]] = set,
        progress: Progress = _quiet,
        ended: Callable[[Outcome], None] = _unheard,
        proceed: Callable[[], bool] = _always,
    ) -> list[Outcome]:
        """Run jobs, in as few forwards as they and the limits allow.

        Args:
            tasks: the jobs; their ids differ.
            cancelled: asked at every site: ids of jobs that are to stop.
            progress: told when a forward of a job of several is over.
            ended: told of each job as soon as it has ended, before the others have.
            proceed: asked before each batch; once it says no, jobs that have not begun are left out.

        Returns:
            How each ended, in order. A job that fails takes no other with it.
        """
        if len({task.id for task in tasks}) < len(tasks):
            raise ValueError("two tasks have the same id")
        settled = _Settled(ended)
        desk = _Desk(cancelled, progress, settled)
        plans = [plan for task in tasks if (plan := self._planned(task, settled)) is not None]
        for group in groups(plans, tokens=self.limits.tokens, rows=self.limits.rows):
            if not proceed():
                break
            self._settle(group, desk)
        return [settled.outcomes[task.id] for task in tasks if task.id in settled.outcomes]

    def plan(self, task: Task) -> Plan:
        """Check and price a job without running it.

        Raises:
            GraphError: it cannot run, or costs too much.
        """
        return make_plan(task, self.card, self._tokenize_one if self.loaded.tokenizer is not None else None)

    def tokenize(self, text: str | Sequence[str]) -> list[list[int]]:
        """Token ids of a text, or of each of several: one row each, special tokens as the model expects them.

        Raises:
            BadArgument: the model takes token ids only.
        """
        return [self._tokenize_one(one) for one in ([text] if isinstance(text, str) else text)]

    def close(self) -> None:
        """Give the model back as it was loaded."""
        self.model.close()

    def _planned(self, task: Task, settled: _Settled) -> Plan | None:
        try:
            return self.plan(task)
        except Exception as error:
            settled.add(Outcome(task.id, None, bare(as_job_error(error))))
            return None

    def _settle(self, plans: Sequence[Plan], desk: _Desk) -> None:
        """Run a batch; where it fails as a whole, or lacks memory, in halves, down to single jobs."""
        runs: list[Running] = []
        try:
            runs = self._forwards(plans, desk)
        except Exception as error:
            if len(plans) == 1:
                desk.settled.add(Outcome(plans[0].id, None, bare(as_job_error(error, "the model"))))
                return
        for run in runs:
            if len(plans) == 1 or run.error is None or not is_memory(run.error):
                warnings = run.plan.checked.warnings
                desk.settled.add(Outcome(run.plan.id, run.saved, run.error, warnings, run.seconds))
        runs.clear()
        again = [plan for plan in plans if plan.id not in desk.settled.outcomes]
        for part in halves(again) if len(again) > 1 else [again]:
            if part:
                self._settle(part, desk)

    def _forwards(self, plans: Sequence[Plan], desk: _Desk) -> list[Running]:
        """All forwards of some jobs, the first of each together, then the second, and so on."""
        clock = Clock()
        runs = [Running(plan, self.model, self.card, self.loaded.device, clock, desk.cancelled) for plan in plans]
        with torch.no_grad():
            for run in runs:
                run.start()
            for number in range(max(len(plan.passes) for plan in plans)):
                self._forward([run for run in runs if run.error is None and number < len(run.plan.passes)], number)
                _tell(runs, number, desk.progress)
            for run in runs:
                run.finish()
        return runs

    def _forward(self, runs: Sequence[Running], number: int) -> None:
        """One forward over every invoke that takes part in it."""
        active = [run for run in runs if not run.stops()]
        if not active:
            return
        tokens = {(run.plan.id, name): run.plan.tokens[name] for run in active for name in run.plan.invokes(number)}
        mask = any(run.plan.reads_engine for run in active)
        batch = pack(tokens, self.card, self.loaded.device, pad=self._pad, mask=mask)
        parts = [
            Part(
                run,
                run.plan.passes[number],
                {name: batch.rows[run.plan.id, name] for name in run.plan.invokes(number)},
            )
            for run in active
        ]
        with attention(self.loaded.module, eager=active[0].plan.eager):
            self.model.forward(batch.inputs, parts, Watch(active))

    def _tokenize_one(self, text: str) -> list[int]:
        if self.loaded.tokenizer is None:
            raise BadArgument(f"model '{self.card.id}' has no tokenizer; give token ids")
        return [int(one) for one in self.loaded.tokenizer(text, verbose=False)["input_ids"]]


def _tell(runs: Sequence[Running], number: int, progress: Progress) -> None:
    """Say how far jobs of several forwards are."""
    for run in runs:
        total = len(run.plan.passes)
        if run.error is None and number < total > 1:
            progress(run.plan.id, number + 1, total)


def _padding(loaded: Loaded) -> int:
    """The token id that fills up shorter rows: the model's own for that, where it has one."""
    found = getattr(loaded.module.config, "pad_token_id", None)
    return found if isinstance(found, int) and 0 <= found < loaded.card.vocabulary else 0
