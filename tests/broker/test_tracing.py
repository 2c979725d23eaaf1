"""Spans of gateways and workers, and that nothing of them is there where nobody asked."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from telepatch_broker.tracing import Traces, open_traces
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.traceparent import sane, trace_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-1] + "0"


@pytest.fixture
def kept() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(kept: InMemorySpanExporter) -> Traces:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return Traces(provider)


def test_a_span_goes_on_in_the_trace_of_what_caused_it(traces: Traces, kept: InMemorySpanExporter):
    span = traces.begin("job", parent=PARENT, began=100.0, attributes={"telepatch.job": "j"})
    assert sane(span.traceparent) is not None
    assert trace_of(span.traceparent) == trace_of(PARENT)
    span.end(error="time_limit")
    [one] = kept.get_finished_spans()
    assert one.parent is not None
    assert f"{one.parent.span_id:016x}" == PARENT.split("-")[2]
    assert (one.start_time, one.status.description) == (100_000_000_000, "time_limit")


def test_a_part_that_is_over_lies_inside_its_span_and_is_linked_to_others(traces: Traces, kept: InMemorySpanExporter):
    one, two = traces.begin("job"), traces.begin("job")
    one.child("forward", 1.0, 2.5, links=[one, two])
    [forward] = kept.get_finished_spans()
    assert forward.parent is not None
    assert (forward.start_time, forward.end_time) == (1_000_000_000, 2_500_000_000)
    assert [f"{link.context.trace_id:032x}" for link in forward.links] == [
        trace_of(one.traceparent),
        trace_of(two.traceparent),
    ]


def test_what_its_sender_did_not_sample_is_not_kept_and_goes_on_unsampled(traces: Traces, kept: InMemorySpanExporter):
    span = traces.begin("job", parent=UNSAMPLED)
    span.child("queued", 1.0, 2.0)
    span.end()
    assert not span.kept
    assert span.traceparent.endswith("-00")
    assert kept.get_finished_spans() == ()


def test_an_exporter_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(BadArgument, match=r"no exporter 'jaegr' here; there is console, otlp"):
        open_traces("telepatch-gateway", ["jaegr"])


@pytest.mark.parametrize(
    ("modules", "none_of"),
    [
        ("telepatch.courier", "opentelemetry"),
        ("telepatch_server.app, telepatch_worker.spans", "opentelemetry.sdk.trace"),  # redis itself imports some
    ],
)
def test_nothing_is_imported_where_nobody_asked(modules: str, none_of: str):
    program = (
        f"import sys, {modules}; import telepatch_protocol.traceparent; assert {none_of!r} not in sys.modules;"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry.exporter')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_the_packages_it_is_said_what_to_install():
    program = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; from telepatch_broker.tracing import open_traces;"
        "open_traces('x', ('otlp',))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'telepatch[otel]'" in told.stderr.splitlines()[-1]
