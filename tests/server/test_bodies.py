"""Bodies over the limit, and JSON that is none."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from telepatch_protocol.errors import ProtocolError
from telepatch_server.bodies import strict_json


@pytest.fixture
def small(serve: Callable[..., httpx.Client], settings: Any, published: object) -> httpx.Client:
    """A gateway that takes bodies of 2,000 bytes."""
    return serve(settings.model_copy(update={"gateway_body_bytes": 2000}))


def test_a_body_over_the_limit_is_refused_by_its_announced_length(small: httpx.Client) -> None:
    for path in ("/v1/jobs", "/v1/tokenize", "/v1/results"):
        answer = small.post(path, content=b"x" * 2001)
        assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
        assert "2000" in answer.json()["detail"]


def test_a_body_that_announces_nothing_is_refused_while_it_is_read(small: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(50):
            yield b"x" * 100

    assert small.post("/v1/jobs", content=chunks()).status_code == 413


def test_parts_are_limited_too(small: httpx.Client) -> None:
    answer = small.post("/v1/jobs", files={"submission": (None, "{}"), "attachment": ("a", b"x" * 3000)})
    assert answer.status_code == 413


def test_an_announced_giant_is_refused_before_it_is_sent(small: httpx.Client) -> None:
    host, port = small.base_url.host, small.base_url.port
    with socket.create_connection((host, port or 80), timeout=10) as line:
        head = f"POST /v1/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Length: 999999999999\r\n\r\n"
        line.sendall(head.encode())
        assert line.recv(100).startswith(b"HTTP/1.1 413")


def test_a_sender_that_falls_silent_is_told_so(
    serve: Callable[..., httpx.Client], settings: Any, published: object
) -> None:
    quick = serve(settings.model_copy(update={"gateway_body_seconds": 0.2}))
    with socket.create_connection((quick.base_url.host, quick.base_url.port or 80), timeout=10) as line:
        line.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert line.recv(1000).startswith(b"HTTP/1.1 408")
    with quick.stream("GET", "/v1/events") as events:
        # What has been read to its end is not waited for: streams go on.
        assert [next(events.iter_lines()) for _ in range(1)] == ["retry: 1000"]


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'{"a": NaN}', b'{"a": 1, "a": 2}', b'"\\ud800"', b'"\xed\xa0\x80"', b"\xff", b"[" * 100_000, b"1e"],
)
def test_what_is_no_strict_json_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        strict_json(data)


def test_characters_beyond_the_basic_plane_are_texts() -> None:
    assert strict_json(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"
