"""What a worker tells of itself to those who operate it: numbers, and lines in the log. Never what is in a job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from telepatch_broker.jobs import TakenJob
from telepatch_broker.measures import Tally
from telepatch_broker.worker_measures import (
    BATCH_JOBS,
    BATCH_ROWS,
    BATCH_TOKENS,
    FORWARD_SECONDS,
    IN_HAND,
    JOB_SECONDS,
    JOBS,
    RESULT_BYTES,
    STARTED,
    STEP_FAILURES,
    TABLE,
)
from telepatch_worker.desk import Outcome
from telepatch_worker.meter import Forward, Meter
from telepatch_worker.spans import Spans

_log = structlog.get_logger(__name__)

Gauges = Mapping[str, Mapping[str, float]]
"""Values of gauges by measure and label."""


@dataclass
class _Job:
    """What is known of a job in hand, and where its time went so far."""

    taken: TakenJob
    phases: dict[str, float] = field(default_factory=dict)
    forwards: int = 0
    ended: float | None = None


class Watching(Meter):
    """Hears what happens to jobs; some of it on the engine's thread.

    Args:
        gauges: what is so now, asked whenever somebody looks.
        spans: where traces are kept.
    """

    def __init__(self, gauges: Callable[[], Gauges] = dict, spans: Spans | None = None) -> None:
        self.tally = Tally(TABLE)
        self._spans = spans
        self.gauges = gauges
        self._jobs: dict[str, _Job] = {}
        self.tally.set(STARTED, time.time())
        for counter in (STEP_FAILURES, RESULT_BYTES):
            self.tally.add(counter, 0)  # so that the first one that counts is seen as a change

    # Of jobs

    def taken(self, jobs: Sequence[TakenJob]) -> None:
        """A batch begins."""
        for job in jobs:
            self._jobs[job.id] = _Job(job)
            if job.waited is not None:
                self._took(job.id, "queued", job.waited)
            if self._spans is not None:
                self._spans.taken(job)
        _log.info(
            "jobs_taken",
            jobs={job.id: job.person for job in jobs},
            requests={job.id: job.origin["request"] for job in jobs if "request" in job.origin},
            attempts={job.id: job.attempt for job in jobs if job.attempt > 1},
            tokens=sum(job.cost for job in jobs),
        )

    def read(self, job: str, seconds: float) -> None:
        """All that a job needs is there."""
        self._went(job, "reading", seconds)

    def planned(self, job: str, seconds: float) -> None:
        """A job was checked and planned."""
        self._went(job, "planning", seconds)

    def forward(self, forward: Forward) -> None:
        """A forward was run."""
        self.tally.observe(BATCH_JOBS, len(forward.jobs))
        self.tally.observe(BATCH_ROWS, forward.rows)
        self.tally.observe(BATCH_TOKENS, forward.tokens)
        self.tally.observe(FORWARD_SECONDS, forward.seconds)
        for job in forward.jobs:
            if (known := self._jobs.get(job)) is not None:
                known.forwards += 1
        if self._spans is not None:
            self._spans.forward(forward)
        ms = round(1000 * forward.seconds, 2)
        _log.debug("batch_ended", jobs=forward.jobs, rows=forward.rows, tokens=forward.tokens, ms=ms)

    def ended(self, outcome: Outcome) -> None:
        """A job has run; its result is to be handed in."""
        self._took(outcome.id, "running", outcome.seconds)
        if (known := self._jobs.get(outcome.id)) is not None:
            known.ended = time.perf_counter()

    def handed_in(self, outcome: Outcome, *, lost: bool = False) -> None:
        """A job has left; `lost` if it was not this worker's any more."""
        known = self._jobs.get(outcome.id)
        if known is not None and known.ended is not None:
            self._went(outcome.id, "handing_in", time.perf_counter() - known.ended)
        code = "completed" if outcome.error is None else outcome.error.code()
        size = sum(tensor.nbytes for tensor in (outcome.saved or {}).values())
        told = "lost" if lost and outcome.error is None else code
        self.tally.add(JOBS, label=told)
        self.tally.add(RESULT_BYTES, 0 if lost else size)
        _log.info("job_ended", job=outcome.id, state=_state(code), error=_error(code), bytes=size, **_about(known))
        self.forget(outcome.id, told)

    def forget(self, job: str, outcome: str = "") -> None:
        """A job is not in hand any more; without an outcome it goes on elsewhere, or later."""
        known = self._jobs.pop(job, None)
        if self._spans is not None:
            self._spans.ended(job, outcome=outcome, forwards=0 if known is None else known.forwards)

    # Of the worker

    def failed(self, error: BaseException, *, expected: bool) -> None:
        """A step of the loop failed, and is repeated."""
        self.tally.add(STEP_FAILURES)
        _log.warning("step_failed", kind=type(error).__name__, exc_info=None if expected else error)

    def snapshot(self) -> dict[str, Any]:
        """All numbers, gauges as they are now."""
        self.tally.set(IN_HAND, len(self._jobs))
        for name, values in self.gauges().items():
            for label, value in values.items():
                self.tally.set(name, value, label=label)
        return self.tally.snapshot()

    def _went(self, job: str, phase: str, seconds: float) -> None:
        """A phase that has just ended."""
        self._took(job, phase, seconds)
        if self._spans is not None:
            self._spans.phase(job, phase, seconds)

    def _took(self, job: str, phase: str, seconds: float) -> None:
        self.tally.observe(JOB_SECONDS, seconds, label=phase)
        if (known := self._jobs.get(job)) is not None:
            known.phases[phase] = known.phases.get(phase, 0.0) + seconds


def _state(code: str) -> str:
    return code if code in ("completed", "cancelled") else "failed"


def _error(code: str) -> str | None:
    return None if code == "completed" else code


def _about(known: _Job | None) -> dict[str, Any]:
    """Whose job it was, and where its time went, in milliseconds."""
    if known is None:
        return {}
    job = known.taken
    ms = {phase: round(1000 * seconds, 2) for phase, seconds in known.phases.items()}
    about = {"person": job.person, "lane": job.lane, "attempt": job.attempt, "forwards": known.forwards, "ms": ms}
    return about | ({"request": job.origin["request"]} if "request" in job.origin else {})
