"""The gateway as a process: listen, say where, answer until asked to end."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextlib import ExitStack
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from telepatch_broker import logs
from telepatch_broker.tracing import open_traces
from telepatch_protocol.errors import Unavailable
from telepatch_server.app import create_app
from telepatch_server.metrics import Metrics
from telepatch_server.patience import patient
from telepatch_server.services import running
from telepatch_server.settings import Settings, traces_exporters

_BACKLOG: Final = 2048


class Server(uvicorn.Server):
    """A server that ends in order: not ready, no more streams, all answered that has begun. Asked again, at once."""

    def __init__(
        self, config: uvicorn.Config, app: FastAPI, listener: socket.socket, drain_seconds: float = 0.0
    ) -> None:
        super().__init__(config)
        self._app = app
        self._listener = listener
        self._drain_seconds = drain_seconds
        self._asked: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        if self.started:
            print(f"telepatch gateway listens on {url_of(self._listener)}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take note of being asked to end; the second time, nothing is waited for any more."""
        self._captured_signals.append(sig)
        if self._asked is not None:
            self.should_exit = self.force_exit = True
        self._asked = self._asked or time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Once asked to end: not ready at once, and no longer listening once others may have noticed."""
        if self._asked is not None:
            self._close()
            self.should_exit = self.should_exit or time.monotonic() - self._asked >= self._drain_seconds
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End open streams, then everything else."""
        self._close()
        await super().shutdown(sockets)

    def _close(self) -> None:
        services = getattr(self._app.state, "services", None)
        if services is not None:
            services.closing.set()


def main(settings: Settings) -> None:
    """Run a gateway until SIGTERM or SIGINT.

    Once it answers it says where, on standard output: ``telepatch gateway listens on http://127.0.0.1:8000``.

    Raises:
        BadArgument: others can reach it, and nobody has a key.
        Unavailable: Redis does not answer, the blob store is not shared, or the address cannot be listened on.
    """
    logs.configure(settings.log_level, settings.log_format)
    logging.captureWarnings(True)
    traces = open_traces("telepatch-gateway", traces_exporters())
    app = create_app(settings, traces)
    asyncio.run(_try(settings))
    with listening(settings.host, settings.port) as listener:
        server = Server(configured(app, settings), app, listener, settings.gateway_drain_seconds)
        try:
            server.run(sockets=[listener])
        finally:
            if traces is not None:
                traces.close()
    if not server.started:
        raise Unavailable("the gateway could not start; its log says why")


async def _try(settings: Settings) -> None:
    """Connect once beforehand: what fails inside the server's own start ends in a traceback instead of a sentence."""
    async with running(settings, Metrics()):
        return


def listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections.

    Raises:
        Unavailable: the address is somebody else's, or taken.
    """
    with ExitStack() as failing:
        try:
            family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
            # asyncio turns Nagle's algorithm off only where the socket says that it is TCP: 40 ms per answer otherwise.
            listener = failing.enter_context(socket.socket(family, kind, socket.IPPROTO_TCP))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise Unavailable(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
        failing.pop_all()
        return listener


def url_of(listener: socket.socket) -> str:
    """The address of a socket as clients write it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def configured(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        access_log=False,  # `access` writes it
        log_config=None,
        log_level="warning",
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=settings.gateway_stop_seconds,
        timeout_keep_alive=75,
        http=patient(settings.gateway_head_seconds),
    )
