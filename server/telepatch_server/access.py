"""Every request has an id, which its answer carries, and a line in the log: who called what, and how it ended."""

from __future__ import annotations

import re
import secrets
import time
from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from telepatch_protocol import traceparent
from telepatch_protocol.traceparent import sane

HEADER: Final = "X-Request-Id"
HEADER_OF_TRACES: Final = traceparent.HEADER

_log = structlog.get_logger(__name__)
_SANE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""What machines ask all the time."""
_JOB: Final = re.compile(r"[0-9a-f-]{36}")


def call_of(scope: Scope) -> str:
    """Method and route of a request; not its path, so that ids make no new calls."""
    return f"{scope['method']} {getattr(scope.get('route'), 'path', 'unknown')}"


def origin_of(scope: Scope) -> dict[str, str]:
    """What goes with the jobs of a request into logs and traces of others: its id, and where it belongs in a trace."""
    state = scope.get("state", {})
    found = {"request": state.get("request"), HEADER_OF_TRACES: state.get("traceparent") or given_traceparent(scope)}
    return {name: value for name, value in found.items() if value}


def given_traceparent(scope: Scope) -> str | None:
    """Where in a trace the request belongs, if the caller says so."""
    return sane(_header(scope, HEADER_OF_TRACES))


class Logged:
    """Gives requests their ids and writes down how they ended; of what machines ask all the time at debug level."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, id = time.perf_counter(), _given(scope) or secrets.token_hex(8)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request"] = id
        told: dict[str, Any] = {"status": None, "bytes": 0}

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                told["status"] = message["status"]
                header = (HEADER.lower().encode(), id.encode())
                message = {**message, "headers": [*message.get("headers", ()), header]}
            else:
                told["bytes"] += len(message.get("body", b""))
            await send(message)

        with structlog.contextvars.bound_contextvars(request=id):
            try:
                await self._app(scope, receive, named)
            finally:
                _write(scope, state.get("person"), told, time.perf_counter() - began)


def _given(scope: Scope) -> str | None:
    """The id that the caller gave, if it is one that can stand in a log."""
    found = _header(scope, HEADER)
    return found if found is not None and _SANE.fullmatch(found) else None


def _header(scope: Scope, name: str) -> str | None:
    wanted = name.lower().encode()
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == wanted), None)


def _write(scope: Scope, person: str | None, told: dict[str, Any], seconds: float) -> None:
    """A line; without a status where the caller went away before there was an answer."""
    call, about = call_of(scope), dict(told)
    job = scope.get("path_params", {}).get("id", "")
    if call.partition(" ")[2].startswith("/v1/jobs/") and _JOB.fullmatch(job):
        about["job"] = job
    quiet = scope["path"] in QUIET and (told["status"] or 500) < 400
    write = _log.debug if quiet else _log.info
    write("request", call=call, person=person, ms=round(1000 * seconds, 2), **about)
