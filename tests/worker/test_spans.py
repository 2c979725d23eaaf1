"""Spans of jobs and of the forwards that they share."""

from __future__ import annotations

import time
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from telepatch_broker.jobs import TakenJob
from telepatch_broker.tracing import Traces
from telepatch_worker.meter import Forward
from telepatch_worker.spans import Spans

PARENTS = {name: f"00-{number * 32}-{number * 16}-01" for name, number in {"one": "1", "two": "2"}.items()}


@pytest.fixture
def kept() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(kept: InMemorySpanExporter) -> Spans:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return Spans(Traces(provider), "tiny", "w1")


def taken(id: str, parent: str | None = None) -> TakenJob:
    origin = {"request": "r1"} | ({"traceparent": parent} if parent else {})
    return TakenJob(id, "ada", "tiny", b"{}", b"", b"", None, {}, 1, False, "", 2, 0.0, waited=2.0, origin=origin)


def named(kept: InMemorySpanExporter, name: str) -> list[Any]:
    return [span for span in kept.get_finished_spans() if span.name == name]


def test_a_job_lasts_from_the_queue_to_its_end_in_the_trace_of_its_sender(spans: Spans, kept: InMemorySpanExporter):
    spans.taken(taken("one", PARENTS["one"]))
    spans.phase("one", "reading", 0.5)
    spans.ended("one", outcome="completed", forwards=3)
    [job], [queued], [reading] = named(kept, "job"), named(kept, "queued"), named(kept, "reading")
    assert f"{job.context.trace_id:x}" == "1" * 32
    assert f"{job.parent.span_id:x}" == "1" * 16
    assert job.attributes["telepatch.job"] == "one"
    assert job.attributes["telepatch.attempt"] == 2
    assert job.attributes["telepatch.forwards"] == 3
    assert job.start_time == queued.start_time
    assert 2e9 <= queued.end_time - queued.start_time < 60e9
    assert reading.end_time - reading.start_time == pytest.approx(0.5e9, rel=0.01)
    assert job.status.is_ok
    assert abs(job.end_time / 1e9 - time.time()) < 60


def test_a_forward_lies_in_one_job_and_is_linked_to_all(spans: Spans, kept: InMemorySpanExporter):
    for name, parent in PARENTS.items():
        spans.taken(taken(name, parent))
    spans.forward(Forward(("one", "two", "gone"), 2, 10, 0.25))
    [forward] = named(kept, "forward")
    assert f"{forward.context.trace_id:x}" == "1" * 32
    assert [f"{link.context.trace_id:x}" for link in forward.links] == ["1" * 32, "2" * 32]
    assert (forward.attributes["telepatch.jobs"], forward.attributes["telepatch.tokens"]) == (3, 10)


def test_of_a_long_generation_the_first_forwards_are_told_and_a_newcomer_has_its_own(
    spans: Spans, kept: InMemorySpanExporter
):
    spans.taken(taken("one", PARENTS["one"]))
    for _ in range(100):
        spans.forward(Forward(("one",), 1, 1, 0.01))
    assert len(named(kept, "forward")) == 64
    spans.taken(taken("two", PARENTS["two"]))
    spans.forward(Forward(("one", "two"), 2, 2, 0.01))
    assert f"{named(kept, 'forward')[-1].context.trace_id:x}" == "2" * 32


def test_a_job_that_failed_says_so_by_code_and_one_that_goes_on_elsewhere_does_not(
    spans: Spans, kept: InMemorySpanExporter
):
    spans.taken(taken("one"))
    spans.taken(taken("two"))
    spans.ended("one", outcome="time_limit")
    spans.ended("two")
    assert [(job.status.is_ok, job.status.description) for job in named(kept, "job")] == [
        (False, "time_limit"),
        (True, None),
    ]
