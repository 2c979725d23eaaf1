"""Refusals of requests whose bodies are still being sent."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from telepatch_server import lingering

SENT = 8 * 2**20
"""More than the buffers of a connection hold."""


@pytest.fixture
def small(serve: Callable[..., httpx.Client], settings: Any, published: object) -> httpx.Client:
    """A gateway that takes bodies of 2,000 bytes."""
    return serve(settings.model_copy(update={"gateway_body_bytes": 2000}))


def line_to(http: httpx.Client) -> socket.socket:
    """A connection of one's own."""
    return socket.create_connection((http.base_url.host, http.base_url.port or 80), timeout=30)


@pytest.mark.parametrize("announced", [True, False])
def test_who_sends_all_before_they_read_still_gets_the_refusal(small: httpx.Client, announced: bool) -> None:
    how = f"Content-Length: {SENT}" if announced else "Transfer-Encoding: chunked"
    piece = b"x" * 65536 if announced else b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with line_to(small) as line:
        line.sendall(f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n{how}\r\n\r\n".encode())
        for _ in range(SENT // 65536):
            line.sendall(piece)
            time.sleep(0.002)
        if not announced:
            line.sendall(b"0\r\n\r\n")
        assert line.recv(4096).startswith(b"HTTP/1.1 413")


def test_the_refusal_comes_before_the_rest_of_the_body(small: httpx.Client) -> None:
    begun = time.monotonic()
    with line_to(small) as line:
        line.sendall(f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {SENT}\r\n\r\n".encode())
        assert line.recv(4096).startswith(b"HTTP/1.1 413")
        assert time.monotonic() - begun < lingering.SECONDS


def test_who_goes_on_for_ever_is_hung_up_on(small: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "SECONDS", 0.2)
    with line_to(small) as line:
        line.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n")
        assert line.recv(4096).startswith(b"HTTP/1.1 413")
        with pytest.raises(OSError):
            while True:
                line.sendall(b"x" * 65536)
                time.sleep(0.01)
