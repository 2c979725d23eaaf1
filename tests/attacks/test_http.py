"""The line itself: requests inside requests, heads that never end, hosts that are somebody else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.attacks.raw import Line

SMUGGLED = b"GET /v1/me HTTP/1.1\r\nHost: localhost\r\n\r\n"

Open = Callable[[], Line]


def test_whoever_hangs_up_in_the_middle_of_a_body_leaves_nothing_in_the_log(line: Open, capsys: Any) -> None:
    """An error with its stack for each of them would fill any disk."""
    for body in (b"{", b'{"documents": ['):
        wire = line()
        wire.send(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n" + body)
        wire.close()
    chunked = line()
    chunked.ask("POST", "/v1/jobs", "Transfer-Encoding: chunked", body=b"nonsense\r\n" + SMUGGLED)
    assert line().ask("GET", "/v1/me").status == 200
    told = capsys.readouterr()
    assert "unexpected error" not in told.out + told.err


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: +5",),
        ("Content-Length: 5, 6",),
        ("Content-Length: -1",),
        ("Content-Length: 0x5",),
        ("Content-Length : 5",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding: chunked, gzip",),
    ],
)
def test_a_body_whose_end_is_disputed_is_refused_and_the_line_closed(line: Open, headers: tuple[str, ...]) -> None:
    wire = line()
    answer = wire.ask("POST", "/v1/jobs", *headers, body=SMUGGLED)
    assert answer.status in (400, 501)
    assert wire.closes(5)


def test_of_two_lengths_the_chunks_count_and_nothing_behind_them_is_taken_for_a_request(line: Open) -> None:
    wire = line()
    body = b"0\r\n\r\n" + SMUGGLED
    answer = wire.ask("POST", "/v1/jobs", f"Content-Length: {len(body)}", "Transfer-Encoding: chunked", body=body)
    assert answer.status == 400
    assert wire.closes(5), "what may have been smuggled is not answered"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/me HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /v1/me HTTP/1.1\r\n\r\n",
        b"GET /v1/me HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b: folded\r\n\x00\r\n\r\n",
        b"GET /v1/me\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/me HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET /v1/me HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_gets_a_400_and_nothing_else(line: Open, head: bytes) -> None:
    wire = line()
    wire.send(head)
    assert wire.answer().status in (400, 505)
    assert wire.closes(5)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "10.0.0.1", "0.0.0.0", "[", "[::", "]", "@"),
        *("localhost@evil.example", "localhost:80@evil.example", "127.0.0.1%2eevil.example", "2130706433.evil.example"),
        *("localhost evil.example", "localhost\tevil.example", "loc\xa0alhost", "localhost\\@evil.example", ""),
    ],
)
def test_without_keys_no_name_but_this_machine_s_own_is_answered(line: Open, host: str) -> None:
    """A page at evil.example whose name suddenly resolves to 127.0.0.1 sends its own name as host."""
    answer = line().ask("GET", "/v1/me", host=host)
    assert answer.status in (400, 403)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://[", "file://", "http://localhost.evil.example"]
)
def test_without_keys_pages_of_elsewhere_get_nothing_whatever_they_call_themselves(line: Open, origin: str) -> None:
    assert line().ask("POST", "/v1/jobs", f"Origin: {origin}", "Content-Length: 0").status == 403


def test_without_keys_a_second_origin_does_not_hide_behind_a_good_one(line: Open) -> None:
    answer = line().ask("GET", "/v1/me", "Origin: http://localhost", "Origin: https://evil.example")
    assert answer.status == 403


def test_without_keys_a_form_or_picture_of_another_site_gets_nothing(line: Open) -> None:
    """What a browser sends without an origin, it still says of where it comes from."""
    assert line().ask("GET", "/v1/jobs", "Sec-Fetch-Site: cross-site").status == 403
    assert line().ask("GET", "/v1/jobs", "Sec-Fetch-Site: none").status == 200
    assert line().ask("GET", "/v1/jobs", "Sec-Fetch-Site: same-origin").status == 200


def test_no_answer_lets_pages_of_elsewhere_read_it(http: httpx.Client) -> None:
    for headers in ({}, {"Origin": "http://localhost:3000"}, {"Origin": "https://evil.example"}):
        answer = http.options("/v1/jobs", headers=headers | {"Access-Control-Request-Method": "POST"})
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert not [name for name in http.get("/v1/me", headers=headers).headers if name.startswith("access-control")]


def test_a_head_that_is_longer_than_any_is_refused(line: Open) -> None:
    for size in (70_000, 200_000, 3_000_000):
        fields = [f"X-{at}: a" for at in range(size // 10)]
        for path, more in (("/v1/me", ["X: " + "a" * size]), ("/v1/me?" + "a" * size, []), ("/v1/me", fields)):
            assert line().ask("GET", path, *more).status in (0, 400, 431)


def test_what_stands_behind_a_body_changes_nothing_of_its_head(line: Open) -> None:
    """Trailers of a chunked body could bring another key, or another origin, after the first was looked at."""
    body = b"2\r\n{}\r\n0\r\nOrigin: https://evil.example\r\nHost: evil.example\r\nContent-Encoding: gzip\r\n\r\n"
    wire = line()
    assert b"documents" in wire.ask("POST", "/v1/jobs", "Transfer-Encoding: chunked", body=body).body
    assert wire.ask("GET", "/v1/me").status == 200


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(
    serve: Callable[..., httpx.Client], settings: Any, published: object
) -> None:
    hurried = serve(settings.model_copy(update={"gateway_head_seconds": 0.5}))
    place = hurried.base_url.host, hurried.base_url.port or 80
    silent, slow, again = Line(*place), Line(*place), Line(*place)
    slow.send(b"GET /v1/me HTTP/1.1\r\nHost: local")
    assert again.ask("GET", "/v1/me").status == 200
    again.send(b"GET /v1/m")  # the second request of a line is no other
    for wire in (silent, slow, again):
        assert wire.closes(10)
        wire.close()
    kept = Line(*place)
    assert kept.ask("GET", "/v1/me").status == 200
    assert not kept.closes(1.0), "a line that waits for its next request is kept"
    kept.close()
    with hurried.stream("GET", "/v1/events") as events:  # nor does it touch what has been asked
        assert next(events.iter_lines()) == "retry: 1000"


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: a=b", "a%0d%0aSet-Cookie:%20a=b", "a\nX: y"])
def test_nothing_of_a_request_becomes_a_header_of_the_answer(http: httpx.Client, value: str) -> None:
    for path in ("/v1/models/", "/v1/data/", "/v1/jobs/", "/v1/edits/", "/nowhere/"):
        answer = http.get(path + value.replace("\r", "%0d").replace("\n", "%0a"))
        assert answer.status_code in (404, 422)
        assert "set-cookie" not in answer.headers
        assert "x" not in answer.headers


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PATCH", "PROPFIND", "get", "X" * 50])
def test_methods_that_nobody_offers_are_refused(line: Open, method: str) -> None:
    assert line().ask(method, "/v1/jobs", "Cookie: secret=1").status in (400, 404, 405)


def test_a_websocket_is_not_offered(line: Open) -> None:
    answer = line().ask("GET", "/v1/events", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    assert answer.status != 101
