"""What a gateway counts, for Prometheus, beside what all gateways say alike (`common_metrics`)."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from telepatch_server.access import call_of

_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0)


class Metrics:
    """The numbers of one gateway; no name of a person is among them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "telepatch_requests_total", "Requests by call and status", ("call", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "telepatch_request_seconds",
            "Time until the answer begins",
            ("call",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._submitted = Counter(
            "telepatch_submitted_jobs_total",
            "Jobs of submissions by what became of them: queued, or the code of the refusal",
            ("outcome",),
            registry=self.registry,
        )
        self._streams = Gauge(
            "telepatch_event_streams", "Streams of events that are open at this gateway", registry=self.registry
        )

    def request(self, call: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(call, str(status)).inc()
        self._seconds.labels(call).observe(seconds)

    def submitted(self, outcome: str) -> None:
        """Count a job of a submission."""
        self._submitted.labels(outcome).inc()

    async def streaming(self, stream: AsyncIterator[str]) -> AsyncIterator[str]:
        """A stream of events, counted while it is open."""
        with self._streams.track_inprogress():
            async with aclosing(cast("AsyncGenerator[str, None]", stream)) as pieces:
                async for piece in pieces:
                    yield piece

    def exposition(self) -> str:
        """Everything as Prometheus reads it."""
        return generate_latest(self.registry).decode()


class Measured:
    """Counts every answer of an application, by route rather than by path, so that ids make no new series."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.request(call_of(scope), message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, counted)
