"""Connections that say nothing, or that never stop: the head of a request comes in time, or the line is closed."""

from __future__ import annotations

import asyncio
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:  # where there is no build of it, uvicorn reads requests without C
    HttpToolsProtocol = None  # type: ignore[assignment, misc]

MOST_HEAD: Final = 64 * 1024
"""Bytes that the head of a request may have."""

_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def patient(seconds: float) -> type[asyncio.Protocol]:
    """How uvicorn speaks HTTP, with as much patience as this for the head of a request.

    uvicorn itself waits for ever for the rest of a head, so a few thousand lines that send a byte now and then would
    keep everybody else out. What a body may take is the business of `Limited`, and idle lines are uvicorn's own.
    """
    return type("PatientFor", (_Patient if HttpToolsProtocol is not None else _PatientInPython,), {"seconds": seconds})


class _Head(asyncio.Protocol):
    """What both have in common, before uvicorn's own in the order of classes."""

    seconds = 20.0
    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    _late: asyncio.TimerHandle | None = None
    _read = 0

    def in_head(self) -> bool:
        """Whether a head has begun to come, and not ended."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first head is waited for from now on."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Part of a head, or of a body."""
        super().data_received(data)
        if not self.in_head():
            self._settle()
            return
        self._read += len(data)
        if self._read > MOST_HEAD and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        elif self._late is None:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._settle()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._late = self.loop.call_later(self.seconds, self._close)

    def _settle(self) -> None:
        self._read = 0
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self._late = None
        if not self.transport.is_closing():
            self.transport.close()


class _PatientInPython(_Head, H11Protocol):
    """One connection, read by h11."""

    def in_head(self) -> bool:
        """Whether a head has begun to come, and not ended."""
        return self.conn.their_state is h11.IDLE


if HttpToolsProtocol is not None:

    class _Patient(_Head, HttpToolsProtocol):
        """One connection, read by httptools."""

        _open = False

        def in_head(self) -> bool:
            """Whether a head has begun to come, and not ended."""
            return self._open

        def on_message_begin(self) -> None:
            """A head begins."""
            self._open = True
            super().on_message_begin()

        def on_header(self, name: bytes, value: bytes) -> None:
            """A field of the head; one that comes behind the body would change what has been looked at already."""
            if self._open:
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            """It has ended."""
            self._open = False
            super().on_headers_complete()
