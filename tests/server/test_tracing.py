"""Requests as spans, in the trace of whoever sent them."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from telepatch_broker.tracing import Traces
from telepatch_protocol.traceparent import sane, trace_of
from telepatch_server.access import origin_of
from telepatch_server.tracing import Traced

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def kept() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(kept: InMemorySpanExporter) -> Traces:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return Traces(provider)


async def ask(traces: Traces, path: str = "/v1/jobs/j", status: int = 200, **headers: str) -> dict[str, Any]:
    """The scope of a request after it was answered."""
    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "headers": given}

    class Route:
        path = "/v1/jobs/{id}"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = Route
        scope["state"] |= {"person": "ada", "request": "r1"}
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def send(message: Any) -> None:
        assert message["status"] == status

    if path.startswith("/v1/jobs"):
        await Traced(app, traces)(scope, send, send)
    else:

        async def plain(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": status, "headers": []})

        await Traced(plain, traces)(scope, send, send)
    return scope


async def test_a_request_is_a_span_by_its_route_in_the_trace_of_its_sender(traces: Traces, kept: InMemorySpanExporter):
    scope = await ask(traces, traceparent=PARENT)
    [span] = kept.get_finished_spans()
    assert span.name == "GET /v1/jobs/{id}"
    assert span.attributes is not None
    assert dict(span.attributes) == {
        "http.request.method": "GET",
        "http.route": "/v1/jobs/{id}",
        "http.response.status_code": 200,
        "telepatch.request": "r1",
        "telepatch.person": "ada",
    }
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    passed_on = origin_of(scope)["traceparent"]
    assert trace_of(passed_on) == trace_of(PARENT)
    assert passed_on != PARENT


async def test_a_traceparent_that_is_none_begins_a_trace_of_its_own(traces: Traces, kept: InMemorySpanExporter):
    scope = await ask(traces, traceparent="00-nonsense")
    [span] = kept.get_finished_spans()
    assert span.parent is None
    assert sane(origin_of(scope)["traceparent"])


async def test_an_error_of_the_service_is_one_of_the_span_and_a_refusal_is_not(
    traces: Traces, kept: InMemorySpanExporter
):
    await ask(traces, status=503)
    await ask(traces, status=404)
    assert [span.status.is_ok for span in kept.get_finished_spans()] == [False, True]


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/v1/events"])
async def test_probes_and_streams_that_go_on_for_hours_are_no_spans(
    path: str, traces: Traces, kept: InMemorySpanExporter
):
    await ask(traces, path)
    assert kept.get_finished_spans() == ()


def test_where_the_gateway_keeps_no_traces_that_of_the_sender_goes_with_the_jobs():
    scope = {"type": "http", "headers": [(b"traceparent", PARENT.encode())], "state": {"request": "r1"}}
    assert origin_of(scope) == {"request": "r1", "traceparent": PARENT}
