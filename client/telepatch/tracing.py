"""OpenTelemetry traces of what is sent, for programs that keep traces. Nothing of it is imported for those that do not.

A program keeps them if its environment says so (OTEL_EXPORTER_OTLP_ENDPOINT and its like, with telepatch[otel]
installed), or if it uses OpenTelemetry itself. Each request with jobs is a span, in the trace in which its first job
was made; gateway and workers go on from there.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from telepatch.settings import traces_exporters
from telepatch_protocol.traceparent import HEADER

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

log = logging.getLogger("telepatch")

_GROUP = "opentelemetry_traces_exporter"
_ALIASES = {"otlp": "otlp_proto_http"}


def context() -> object:
    """Where in a trace the caller is; None if nobody keeps traces."""
    if _tracer() is None:
        return None
    from opentelemetry.context import get_current

    return get_current()


@contextmanager
def submitting(contexts: Sequence[object]) -> Iterator[dict[str, str]]:
    """The span of a request with jobs that were made in these contexts; gives the headers to send with it."""
    tracer = _tracer()
    if tracer is None:
        yield {}
        return
    from opentelemetry import trace

    found: list[Any] = [one for one in contexts if one is not None]
    makers = {one.span_id: one for one in (trace.get_current_span(each).get_span_context() for each in found[1:])}
    links = [trace.Link(one) for one in makers.values() if one.is_valid]
    with tracer.start_as_current_span(
        "POST /v1/jobs",
        context=found[0] if found else None,
        kind=trace.SpanKind.CLIENT,
        links=links,
        attributes={"telepatch.jobs": len(contexts)},
        record_exception=False,  # what it says may repeat what was sent
        set_status_on_exception=False,
    ) as span:
        here = span.get_span_context()
        known = {HEADER: f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}"}
        try:
            yield known if here.is_valid else {}
        except Exception as error:
            span.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise


def _tracer() -> Tracer | None:
    """What makes spans, if anybody keeps them."""
    if exporters := _asked():
        return _own(exporters)
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    return trace.get_tracer("telepatch")


@cache
def _asked() -> tuple[str, ...]:
    """What the environment says, read once: a loop of traces asks each time."""
    return traces_exporters()


@cache
def _own(exporters: tuple[str, ...]) -> Tracer | None:
    """As the environment says; a program that has set up OpenTelemetry itself knows better."""
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if isinstance(trace.get_tracer_provider(), TracerProvider):
            return trace.get_tracer("telepatch")
        found: dict[str, Any] = {point.name: point for point in entry_points(group=_GROUP)}
        made = [found[_ALIASES.get(name, name)].load()() for name in exporters]
    except (ModuleNotFoundError, KeyError) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else f"an exporter {error}"
        log.warning("the environment asks for traces, which need %s: pip install 'telepatch[otel]'", missing)
        return None
    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "telepatch-client"}))
    provider = TracerProvider(resource=resource)
    for exporter in made:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider.get_tracer("telepatch")
