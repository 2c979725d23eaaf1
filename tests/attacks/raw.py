"""Bytes on a socket, for what a well-behaved library would never send."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass


@dataclass
class Answer:
    """What came back on a line, as it came."""

    status: int
    head: bytes
    body: bytes


class Line:
    """One connection."""

    def __init__(self, host: str, port: int, timeout: float = 20.0) -> None:
        self.address = f"{host}:{port}"
        self._socket = socket.create_connection((host, port), timeout=timeout)

    def send(self, data: bytes | str) -> None:
        self._socket.sendall(data if isinstance(data, bytes) else data.encode("latin-1"))

    def ask(self, method: str, path: str, *headers: str, body: bytes = b"", host: str | None = None) -> Answer:
        """A request written out by hand; the host is the gateway's own, unless given."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.address if host is None else host}", *headers]
        with suppress(ConnectionError):  # it may hang up in the middle, and have said why
            self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return self.answer(bare=method == "HEAD")

    def answer(self, *, bare: bool = False) -> Answer:
        """The next whole answer, or its head alone; status 0 where the line was closed instead."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self._receive()
            if not piece:
                return Answer(0, data, b"")
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        named = dict(one.lower().split(b": ", 1) for one in head.split(b"\r\n")[1:])
        length = 0 if bare else int(named.get(b"content-length", b"0"))
        while len(body) < length and (piece := self._receive()):
            body += piece
        return Answer(int(head.split()[1]), head, body)

    def closes(self, within: float) -> bool:
        """Whether the other side hangs up in time."""
        self._socket.settimeout(within)
        end = time.monotonic() + within
        try:
            while time.monotonic() < end:
                if not self._receive():
                    return True
        except TimeoutError:
            return False
        return False

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except ConnectionResetError:
            return b""
