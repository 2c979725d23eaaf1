"""What is sent, as spans of programs that keep traces."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from telepatch import tracing
from telepatch_protocol.errors import ConnectionFailed
from telepatch_protocol.traceparent import trace_of


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of this program go."""
    found = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(tracing, "_tracer", lambda: provider.get_tracer("telepatch"))
    return found


def test_a_request_is_a_span_in_the_trace_in_which_its_first_job_was_made(kept: InMemorySpanExporter):
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("program")
    contexts = []
    for name in ("one", "two"):
        with tracer.start_as_current_span(name):
            contexts.append((trace.get_current_span().get_span_context(), tracing.context()))
    with tracing.submitting([context for _, context in contexts]) as headers:
        assert kept.get_finished_spans() == ()
    [span] = kept.get_finished_spans()
    (one, _), (two, _) = contexts
    assert trace_of(headers["traceparent"]) == f"{one.trace_id:032x}"
    assert headers["traceparent"].split("-")[2] == f"{span.context.span_id:016x}"
    assert span.parent is not None
    assert span.parent.span_id == one.span_id
    assert [link.context.span_id for link in span.links] == [two.span_id]


def test_a_request_that_fails_says_so_without_what_it_says(kept: InMemorySpanExporter):
    with pytest.raises(ConnectionFailed), tracing.submitting([None]):
        raise ConnectionFailed("the secret address")
    [span] = kept.get_finished_spans()
    assert (span.status.is_ok, span.status.description, list(span.events)) == (False, "ConnectionFailed", [])


def said(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"import sys, telepatch\nfrom telepatch import tracing\n{program}"]
    path = {"PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**path, **variables})


def test_where_nobody_keeps_traces_nothing_is_imported_or_sent():
    program = """
with tracing.submitting([tracing.context()]) as headers:
    print(headers, [name for name in sys.modules if name.startswith("opentelemetry")])
"""
    assert said(program).stdout == "{} []\n"


def test_the_environment_can_ask_for_them():
    done = said("with tracing.submitting([None]): pass", OTEL_TRACES_EXPORTER="console")
    assert '"name": "POST /v1/jobs"' in done.stdout
    assert '"service.name": "telepatch-client"' in done.stdout


def test_an_exporter_that_is_not_there_is_told_of_and_stops_nothing():
    done = said("with tracing.submitting([None]) as headers: print(headers)", OTEL_TRACES_EXPORTER="jaegr")
    assert done.stdout == "{}\n"
    assert "jaegr" in done.stderr
