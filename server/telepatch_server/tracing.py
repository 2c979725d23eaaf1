"""A span for every request, in the trace of whoever sent it, where traces are kept."""

from __future__ import annotations

from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from telepatch_broker.tracing import Traces
from telepatch_protocol.traceparent import trace_of
from telepatch_server.access import QUIET, call_of, given_traceparent

_ENDLESS: Final = frozenset({"/v1/events"})
_WRONG: Final = 500


class Traced:
    """Makes spans of requests; not of probes, nor of streams that go on for hours."""

    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["path"] in QUIET | _ENDLESS:
            await self._app(scope, receive, send)
            return
        span = self._traces.begin(scope["method"], parent=given_traceparent(scope), server=True)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["traceparent"] = span.traceparent
        status = 0

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with structlog.contextvars.bound_contextvars(trace=trace_of(span.traceparent)):
            try:
                await self._app(scope, receive, seen)
            finally:
                call = call_of(scope)
                about = {
                    "http.request.method": scope["method"],
                    "http.route": call.partition(" ")[2],
                    "http.response.status_code": status,
                    "telepatch.request": str(state.get("request", "")),
                    "telepatch.person": str(state.get("person", "")),
                }
                span.end(name=call, error=str(status) if status >= _WRONG else None, attributes=about)
