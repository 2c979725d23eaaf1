"""The engine: runs jobs on a model, many in one forward, each as if it ran alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from telepatch_protocol.check import exact
from telepatch_protocol.errors import BadArgument, ErrorRecord, TelepatchError
from telepatch_worker.adapters import Switch
from telepatch_worker.attention import attention
from telepatch_worker.backward import fulfil
from telepatch_worker.batch import Batch, groups, halves, order, pack, pieces, stack, worthwhile
from telepatch_worker.checkpoints import Keep
from telepatch_worker.decode import Decoder
from telepatch_worker.decoding import decode
from telepatch_worker.inputs import TokenInput
from telepatch_worker.interleave import Interleaved
from telepatch_worker.load import Loaded, padding_of
from telepatch_worker.lobby import Room
from telepatch_worker.moments import Part
from telepatch_worker.named_inputs import NamedInput
from telepatch_worker.plan import Plan, Task, make_plan
from telepatch_worker.requests import Backward, Decode, Forward
from telepatch_worker.running import Clock, Running, Station, Watch
from telepatch_worker.trouble import as_job_error, bare, is_memory

__all__ = ["BatchLimits", "Desk", "Engine", "Outcome", "Settled", "Task"]

Progress = Callable[[str, int, int], None]
"""Told the id of a job, how many of its forwards are done, and how many there are."""

Values = Callable[[str, dict[str, Any]], None]
"""Told the id of a job, and small values of it as they come: tokens of its generations, and what it emits."""


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

    def halved(self) -> BatchLimits:
        """Half as much."""
        return BatchLimits(max(1, self.tokens // 2), max(1, self.rows // 2))


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


def _unseen(job: str, values: dict[str, Any]) -> None:
    """Values that nobody watches."""


def _unkept(job: str, checkpoints: bytes) -> None:
    """Checkpoints that nobody keeps."""


def _unheard(outcome: Outcome) -> None:
    """An end that nobody waits for."""


def _always() -> bool:
    """Go on."""
    return True


class Settled:
    """How jobs ended, as far as they have."""

    def __init__(self, ended: Callable[[Outcome], None]) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._ended = ended

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.outcomes[outcome.id] = outcome
        self._ended(outcome)


@dataclass(frozen=True)
class Desk:
    """Whom a batch talks to."""

    cancelled: Callable[[], set[str]]
    progress: Progress
    values: Values
    keep: Keep
    settled: Settled


class Engine:
    """Runs jobs on one loaded model. One call of `run` at a time.

    Args:
        loaded: the model.
        limits: of one forward.
        skips: whether modules are left out whose outputs are replaced for everyone in the forward; never in jobs that
            ask for exactness or for gradients.

    Example:
        >>> engine = Engine(load(Path("models/gpt2-random.toml"), cache=cache))
        >>> graph = wire.decode('{"protocol": [1, 0], "model": {"id": "gpt2-random"}, ...}')
        >>> [outcome] = engine.run([Task("job-1", graph)])
        >>> outcome.saved["logits"].shape
        torch.Size([1, 257])
    """

    def __init__(self, loaded: Loaded, limits: BatchLimits | None = None, *, skips: bool = True) -> None:
        self._skips = skips
        self.loaded = loaded
        self.card = loaded.card
        self.limits = limits or BatchLimits()
        self.model = Interleaved(loaded.module)
        self.adapters = Switch(loaded.module)
        self._pad = padding_of(loaded)

    def run(
        self,
        tasks: Sequence[Task],
        *,
        cancelled: Callable[[], set[str]] = set,
        progress: Progress = _quiet,
        values: Values = _unseen,
        keep: Keep = _unkept,
        ended: Callable[[Outcome], None] = _unheard,
        proceed: Callable[[], bool] = _always,
    ) -> list[Outcome]:
        """Run jobs, in as few forwards as they and the limits allow.

        Args:
            tasks: the jobs; their ids differ.
            cancelled: asked at every site: ids of jobs that are to stop.
            progress: told when a forward of a job of several is over.
            values: told what jobs stream.
            keep: told checkpoints of jobs that train, from which they can be begun again (`Task.checkpoint`).
            ended: told of each job as soon as it has ended, before the others have.
            proceed: asked before each batch; once it says no, jobs that have not begun are left out.

        Returns:
            How each ended, in order. A job that fails takes no other with it.
        """
        if len({task.id for task in tasks}) < len(tasks):
            raise ValueError("two tasks have the same id")
        settled = Settled(ended)
        desk = Desk(cancelled, progress, values, keep, settled)
        plans = [plan for task in tasks if (plan := self._planned(task, settled)) is not None]
        for group in groups(plans, tokens=self.limits.tokens, rows=self.limits.rows):
            if not proceed():
                break
            self._settle(group, desk, self.limits)
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

    def _planned(self, task: Task, settled: Settled) -> Plan | None:
        try:
            return self.plan(task)
        except Exception as error:
            settled.add(Outcome(task.id, None, bare(as_job_error(error))))
            return None

    def _settle(self, plans: Sequence[Plan], desk: Desk, limits: BatchLimits) -> None:
        """Run a batch; where it fails as a whole, or lacks memory, in halves, down to single jobs; a single one that
        can run in smaller forwards, in those."""
        runs: list[Running] = []
        try:
            runs = self._forwards(plans, desk, limits)
        except Exception as error:
            if len(plans) == 1 and not self._smaller(plans[0], error, desk, limits):
                desk.settled.add(Outcome(plans[0].id, None, bare(as_job_error(error, "the model"))))
            if len(plans) == 1:
                return
        for run in runs:
            memory = run.error is not None and is_memory(run.error)
            if memory and (len(plans) > 1 or self._smaller(run.plan, run.error, desk, limits)):
                continue
            warnings = (*run.plan.checked.warnings, *run.warnings)
            desk.settled.add(Outcome(run.plan.id, run.saved, run.error, warnings, run.seconds))
        runs.clear()
        again = [plan for plan in plans if plan.id not in desk.settled.outcomes]
        for part in halves(again) if len(again) > 1 else [again]:
            if part:
                self._settle(part, desk, limits)

    def _smaller(self, plan: Plan, error: Exception | None, desk: Desk, limits: BatchLimits) -> bool:
        """Run a job that lacked memory again in forwards of half the size, if it can."""
        if error is None or not is_memory(error) or not plan.splits or limits.rows == 1:
            return False
        self._settle([plan], desk, limits.halved())
        return True

    def _forwards(self, plans: Sequence[Plan], desk: Desk, limits: BatchLimits) -> list[Running]:
        """Some jobs from beginning to end: what all of them need next together, then what they need after that."""
        clock = Clock()
        runs = [self.running(plan, desk, limits, clock) for plan in plans]
        with torch.set_grad_enabled(plans[0].grads), self.adapters.set_to(plans[0].adapter):
            for run in runs:
                run.advance()
            while any(run.wanted for run in runs):
                self.round([run for run in runs if run.wanted], limits)
                for run in runs:
                    run.advance()
                _tell(runs, desk.progress)
        return runs

    def running(self, plan: Plan, desk: Desk, limits: BatchLimits, clock: Clock | None = None) -> Running:
        """A job that is about to run."""
        device = self.loaded.device
        return Running(
            plan,
            self.model,
            self.card,
            device,
            clock or Clock(),
            desk.cancelled,
            rows=limits.rows,
            tokens=limits.tokens,
            values=partial(desk.values, plan.id),
            keep=desk.keep,
            decode=self._text(),
        )

    def round(self, runs: Sequence[Running], limits: BatchLimits) -> None:
        """Everything that some jobs need next."""
        wanted = [_Wanted(run, one) for run in runs for one in run.wanted if isinstance(one, Forward)]
        if runs[0].plan.alone:
            batches = [[one] for one in wanted]
        else:
            most = worthwhile(self.loaded.device)
            batches = pieces(sorted(wanted, key=order), tokens=limits.tokens, rows=limits.rows, padding=most)
        for batch in batches:
            self._forward(batch)
        self._decode([(run, one) for run in runs for one in run.wanted if isinstance(one, Decode)], limits)
        fulfil([one for run in runs if run.error is None for one in run.wanted if isinstance(one, Backward)])

    def _forward(self, wanted: Sequence[_Wanted]) -> None:
        """One forward over every invoke that takes part in it."""
        leaving = {id(run) for run in {id(one.run): one.run for one in wanted}.values() if run.stops()}
        wanted = [one for one in wanted if id(one.run) not in leaving]
        if not wanted:
            return
        batch = self._batch(wanted)
        parts = [
            Part(
                Station(one.run, one.request.frame),
                one.request.frame.plan.passes[one.request.number],
                {name: batch.rows[at, name] for name in one.request.inputs},
                owner=one.run,
            )
            for at, one in enumerate(wanted)
        ]
        plan = wanted[0].run.plan
        skips = self._skips and not plan.grads and not exact(plan.task.graph)
        with attention(self.loaded.module, eager=plan.eager):
            self.model.forward(batch.inputs, parts, Watch([one.run for one in wanted]), skips=skips)

    def _batch(self, wanted: Sequence[_Wanted]) -> Batch[tuple[int, str]]:
        """What the model is called with."""
        given = {(at, name): rows for at, one in enumerate(wanted) for name, rows in one.request.inputs.items()}
        tensors = {key: one for key, one in given.items() if isinstance(one, NamedInput)}
        if tensors:
            return stack(tensors, self.loaded.device)
        tokens = {key: one.ids for key, one in given.items() if isinstance(one, TokenInput)}
        mask = any(one.run.plan.reads_engine for one in wanted)
        return pack(tokens, self.card, self.loaded.device, pad=self._pad, mask=mask)

    def _decode(self, wanted: Sequence[tuple[Running, Decode]], limits: BatchLimits) -> None:
        """Every generation, in steps that they share."""
        if wanted:
            room = Room(rows=limits.rows, tokens=limits.tokens)
            with attention(self.loaded.module, eager=wanted[0][0].plan.eager):
                decode(Decoder(self.model, self.loaded, room), wanted)

    def _text(self) -> Callable[[list[int]], str] | None:
        tokenizer = self.loaded.tokenizer
        return None if tokenizer is None else lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False))

    def _tokenize_one(self, text: str) -> list[int]:
        if self.loaded.tokenizer is None:
            raise BadArgument(f"model '{self.card.id}' has no tokenizer; give token ids")
        return [int(one) for one in self.loaded.tokenizer(text, verbose=False)["input_ids"]]


@dataclass(frozen=True)
class _Wanted:
    """A forward that a job needs."""

    run: Running
    request: Forward

    @property
    def rows(self) -> int:
        """Rows of its invokes."""
        return self.request.rows

    @property
    def longest(self) -> int:
        """Positions of its longest invoke."""
        return self.request.longest

    @property
    def kin(self) -> object:
        """What must be equal for another one to share the forward."""
        return self.request.kin


def _tell(runs: Sequence[Running], progress: Progress) -> None:
    """Say how far jobs of several forwards are."""
    for run in runs:
        total = run.plan.price.passes
        if run.error is None and run.done and total > 1:
            progress(run.plan.id, min(run.done, total), total)
