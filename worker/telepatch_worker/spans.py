"""Spans of jobs, where traces are kept: in the trace of whoever sent the job, from the queue to the handing in."""

from __future__ import annotations

import time
from collections.abc import Sequence

from telepatch_broker.jobs import TakenJob
from telepatch_broker.tracing import Attributes, Span, Traces
from telepatch_protocol.traceparent import HEADER
from telepatch_worker.meter import Forward

_FORWARDS = 64
"""Forwards of a job that are told one by one: a long generation has thousands, and its span says how many."""


class Spans:
    """Spans of the jobs in hand.

    Args:
        traces: where they go.
        model: what runs here.
        worker: id of this worker.
    """

    def __init__(self, traces: Traces, model: str, worker: str) -> None:
        self._traces = traces
        self._about = {"telepatch.model": model, "telepatch.worker": worker}
        self._spans: dict[str, Span] = {}
        self._told: dict[str, int] = {}

    def taken(self, job: TakenJob) -> None:
        """A job is in hand, after it has waited."""
        now = time.time()
        queued = now - (job.waited or 0.0)
        about: Attributes = {
            **self._about,
            "telepatch.job": job.id,
            "telepatch.person": job.person,
            "telepatch.lane": job.lane,
            "telepatch.attempt": job.attempt,
            "telepatch.request": job.origin.get("request", ""),
        }
        span = self._traces.begin("job", parent=job.origin.get(HEADER), began=queued, attributes=about)
        self._spans[job.id] = span
        if job.waited is not None:
            span.child("queued", queued, now)

    def phase(self, job: str, name: str, seconds: float) -> None:
        """A part of its way that has just ended."""
        if (span := self._spans.get(job)) is not None:
            now = time.time()
            span.child(name, now - seconds, now)

    def forward(self, forward: Forward) -> None:
        """A forward that has just ended: in the trace of one of its jobs, with links to all."""
        present = [job for job in forward.jobs if job in self._spans and self._spans[job].kept]
        for job in present:
            self._told[job] = self._told.get(job, 0) + 1
        first = next((job for job in present if self._told[job] <= _FORWARDS), None)
        if first is not None:
            now = time.time()
            about = {
                "telepatch.jobs": len(forward.jobs),
                "telepatch.rows": forward.rows,
                "telepatch.tokens": forward.tokens,
            }
            links = self._all(present)
            self._spans[first].child("forward", now - forward.seconds, now, links=links, attributes=about)

    def ended(self, job: str, *, outcome: str = "", forwards: int = 0) -> None:
        """A job has left; without an outcome it goes on elsewhere, or later."""
        self._told.pop(job, None)
        if (span := self._spans.pop(job, None)) is not None:
            error = outcome if outcome not in ("", "completed") else None
            span.end(error=error, attributes={"telepatch.outcome": outcome, "telepatch.forwards": forwards})

    def close(self) -> None:
        """Send what has not been sent."""
        self._traces.close()

    def _all(self, jobs: Sequence[str]) -> list[Span]:
        return [span for job in jobs if (span := self._spans.get(job)) is not None]
