"""OpenTelemetry traces of gateways and workers. Nothing of it is imported where nobody asked for traces.

OpenTelemetry's own variables say where spans go, how they are sampled and how the service is named. Spans hold ids,
sizes and codes, never contents.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from telepatch_protocol.errors import BadArgument

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

Attributes = Mapping[str, str | int | float | bool]

_GROUP = "opentelemetry_traces_exporter"
_ALIASES = {"otlp": "otlp_proto_http"}


def open_traces(service: str, exporters: Sequence[str]) -> Traces | None:
    """The traces of a process; None if none are asked for.

    Args:
        service: its name, unless OTEL_SERVICE_NAME gives another.
        exporters: as `telepatch_protocol.traceparent.exporters` found them.

    Raises:
        BadArgument: a package is missing, or there is no exporter of that name.
    """
    if not exporters:
        return None
    try:
        return Traces(_provider(service, exporters))
    except ModuleNotFoundError as error:
        raise BadArgument(
            f"the environment asks for traces (OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_ENDPOINT), which need "
            f"{error.name}: pip install 'telepatch[otel]', or set OTEL_TRACES_EXPORTER=none"
        ) from None


class Traces:
    """Makes spans.

    Args:
        provider: of OpenTelemetry's SDK.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("telepatch")

    def begin(
        self,
        name: str,
        *,
        parent: str | None = None,
        began: float | None = None,
        server: bool = False,
        attributes: Attributes | None = None,
    ) -> Span:
        """A span that goes on until it is ended.

        Args:
            name: what it is about.
            parent: the traceparent of what caused it; None begins a trace.
            began: Unix time in seconds; now if left out.
            server: whether it answers a request from elsewhere.
            attributes: what is known of it.
        """
        from opentelemetry import trace

        kind = trace.SpanKind.SERVER if server else trace.SpanKind.CONSUMER
        context = None if parent is None else trace.set_span_in_context(_remote(parent))
        began_ns = None if began is None else _ns(began)
        span = self._tracer.start_span(name, context, kind, attributes=attributes, start_time=began_ns)
        return Span(self._tracer, span)

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


class Span:
    """A part of a trace, made by `Traces.begin`."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def traceparent(self) -> str:
        """What others need to say that it caused them."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    @property
    def kept(self) -> bool:
        """Whether it is sent anywhere; sampling may decide against it."""
        return self._span.is_recording()

    def child(
        self, name: str, began: float, ended: float, *, links: Sequence[Span] = (), attributes: Attributes | None = None
    ) -> None:
        """A part of it that is over already, with links to others that it was also a part of; Unix times in seconds."""
        from opentelemetry import trace

        if not self.kept:
            return
        inside = self._tracer.start_span(
            name,
            trace.set_span_in_context(self._span),
            links=[trace.Link(one._span.get_span_context()) for one in links],
            attributes=attributes,
            start_time=_ns(began),
        )
        inside.end(_ns(ended))

    def end(self, *, name: str | None = None, error: str | None = None, attributes: Attributes | None = None) -> None:
        """It is over now.

        Args:
            name: a better one, where it is known only by now.
            error: the code of what went wrong.
            attributes: what is known of it by now.
        """
        from opentelemetry import trace

        if name is not None:
            self._span.update_name(name)
        if error is not None:
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, error))
        self._span.set_attributes(dict(attributes or {}))
        self._span.end(_ns(time.time()))


def _remote(traceparent: str) -> trace.NonRecordingSpan:
    from opentelemetry import trace

    _, trace_id, span_id, flags = traceparent.split("-")
    context = trace.SpanContext(int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16)))
    return trace.NonRecordingSpan(context)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _provider(service: str, exporters: Sequence[str]) -> TracerProvider:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": service}))
    provider = TracerProvider(resource=resource)
    for name in exporters:
        provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    return provider


def _exporter(name: str) -> SpanExporter:
    """The installed exporter of that name."""
    found: dict[str, Any] = {point.name: point for point in entry_points(group=_GROUP)}
    wanted = _ALIASES.get(name, name)
    if wanted not in found:
        if name in _ALIASES:
            raise ModuleNotFoundError(name="opentelemetry-exporter-otlp-proto-http")
        known = ", ".join(sorted({*found, *_ALIASES}))
        raise BadArgument(f"OTEL_TRACES_EXPORTER: there is no exporter {name!r} here; there is {known}, and none")
    exporter: SpanExporter = found[wanted].load()()
    return exporter
