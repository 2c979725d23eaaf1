"""Every request has an id, which its answer carries, and a line in the log: who called what, and how it ended."""

from __future__ import annotations

import re
import secrets
import time
from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER: Final = "X-Request-Id"

_log = structlog.get_logger(__name__)
_SANE: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_JOB: Final = re.compile(r"[0-9a-f-]{36}")


def call_of(scope: Scope) -> str:
    """Method and route of a request; not its path, so that ids make no new calls."""
    return f"{scope['method']} {getattr(scope.get('route'), 'path', 'unknown')}"


def request_id(scope: Scope) -> str:
    """The id of a request that came through `Logged`; empty elsewhere."""
    return str(scope.get("state", {}).get("request", ""))


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
    wanted = HEADER.lower().encode()
    found = next((value for name, value in scope["headers"] if name == wanted), b"")
    return found.decode() if _SANE.fullmatch(found) else None


def _write(scope: Scope, person: str | None, told: dict[str, Any], seconds: float) -> None:
    """A line; without a status where the caller went away before there was an answer."""
    call, about = call_of(scope), dict(told)
    job = scope.get("path_params", {}).get("id", "")
    if call.partition(" ")[2].startswith("/v1/jobs/") and _JOB.fullmatch(job):
        about["job"] = job
    quiet = scope["path"] in _PROBES and (told["status"] or 500) < 400
    write = _log.debug if quiet else _log.info
    write("request", call=call, person=person, ms=round(1000 * seconds, 2), **about)
