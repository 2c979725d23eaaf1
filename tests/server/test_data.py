"""Uploads over HTTP: whole, in parts, cut off, owned, counted, and used by jobs."""

from __future__ import annotations

import hashlib
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from telepatch_protocol.data_files import encode
from telepatch_protocol.errors import ProtocolError
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.tensors import Tensor
from telepatch_server.routes.data import place_of

Make = Callable[..., dict[str, Any]]

DATA = encode({"x": Tensor.of(np.arange(24, dtype=np.float32).reshape(3, 8)), "text": ["a", "bc", "€"]})
ONE = encode({"x": Tensor.of(np.ones((1, 8), np.float32))})
SIZE = len(DATA)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


URL = f"/v1/data/{digest_of(DATA)}"


def part(start: int, stop: int, **more: Any) -> dict[str, Any]:
    """Arguments that send a part of `DATA`."""
    return {"content": DATA[start:stop], "headers": {"Content-Range": f"bytes {start}-{stop - 1}/{SIZE}", **more}}


@pytest.fixture
def people(
    serve: Callable[..., httpx.Client], settings: Any, signed: Callable[..., httpx.Client], published: Any
) -> dict[str, httpx.Client]:
    """Two people at one gateway with small limits."""
    limits = {"gateway_upload_bytes": 2 * SIZE, "gateway_bytes_stored": 3 * SIZE}
    url = serve(settings.model_copy(update=limits)).base_url
    return {name: signed(url, name) for name in ("ada", "bob")}


def test_an_upload_is_sent_described_and_read_back(http: httpx.Client) -> None:
    sent = http.put(URL, content=DATA)
    assert sent.status_code == 200, sent.text
    assert sent.headers["Upload-Complete"] == "?1"
    told = http.get(URL, headers={"Accept": "application/json"})
    assert told.json() == sent.json()
    assert (told.json()["bytes"], told.json()["received"]) == (SIZE, SIZE)
    assert told.json()["columns"]["x"] == {"kind": "tensor", "rows": 3, "dtype": "float32", "tail": [8]}
    assert told.json()["columns"]["text"]["longest"] == 3
    assert http.get(URL).content == DATA
    some = http.get(URL, headers={"Range": "bytes=5-8"})
    assert (some.status_code, some.content) == (206, DATA[5:9])
    head = http.head(URL)
    assert (head.headers["Content-Length"], head.headers["Upload-Offset"]) == (str(SIZE), str(SIZE))
    assert http.get("/v1/data").json()["uploads"] == [sent.json()]
    assert http.get("/v1/me").json()["data"]["bytes"] == SIZE
    assert http.delete(URL).status_code == 204
    assert http.get(URL).status_code == 404
    assert http.get("/v1/data").json() == {"uploads": [], "bytes": 0, "limit": 32 * 2**30}


def test_parts_are_sent_in_order_and_head_says_how_far_it_is(http: httpx.Client) -> None:
    begun = http.put(URL, headers={"Content-Range": f"bytes */{SIZE}"})
    assert (begun.status_code, begun.headers["Upload-Offset"]) == (202, "0")
    assert http.put(URL, **part(0, 100)).status_code == 202
    head = http.head(URL)
    assert (head.status_code, head.headers["Upload-Offset"], head.headers["Upload-Complete"]) == (204, "100", "?0")
    gap = http.put(URL, **part(101, SIZE))
    assert (gap.status_code, gap.json()["code"]) == (409, "conflict")
    assert "has 100 bytes; this part begins at 101" in gap.json()["detail"]
    early = http.get(URL)
    assert (early.status_code, f"100 of the {SIZE} bytes" in early.json()["detail"]) == (409, True)
    assert http.get(URL, params={"format": "json"}).json()["received"] == 100
    assert http.put(URL, **part(50, SIZE)).status_code == 200
    assert http.put(URL, **part(0, 100)).status_code == 200
    assert http.get(URL).content == DATA


@pytest.mark.parametrize("headers", [{}, {"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}"}])
def test_what_came_before_a_connection_broke_counts(http: httpx.Client, headers: dict[str, str]) -> None:
    address = urlsplit(str(http.base_url))
    with socket.create_connection((address.hostname, address.port)) as raw:
        lines = [f"PUT {URL} HTTP/1.1", f"Host: {address.netloc}", f"Content-Length: {SIZE}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        raw.sendall("\r\n".join([*lines, "", ""]).encode() + DATA[:150])
        time.sleep(0.2)
    deadline = time.monotonic() + 10
    while (answer := http.head(URL)).headers.get("Upload-Offset") != "150":
        assert time.monotonic() < deadline, answer
        time.sleep(0.02)
    assert http.put(URL, **part(150, SIZE)).status_code == 200
    assert http.get(URL).content == DATA


def test_a_sender_that_falls_silent_is_told_how_far_it_is(
    serve: Callable[..., httpx.Client], settings: Any, redis_url: str
) -> None:
    client = serve(settings.model_copy(update={"gateway_body_seconds": 0.3}))

    def slow() -> Iterator[bytes]:
        yield DATA[:150]
        time.sleep(0.8)
        yield DATA[150:]

    answer = client.put(URL, content=slow(), headers={"Content-Length": str(SIZE)})
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (202, "150")


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [(DATA[:-1] + b"!", "bad_argument", "sha256"), (b"nonsense" * 9, "protocol_error", "header")],
)
def test_bytes_that_are_not_what_they_should_be_are_refused_and_gone(
    http: httpx.Client, content: bytes, code: str, said: str
) -> None:
    url = URL if code == "bad_argument" else f"/v1/data/{digest_of(content)}"
    answer = http.put(url, content=content)
    assert (answer.json()["code"], said in answer.json()["detail"]) == (code, True)
    assert http.head(url).status_code == 404
    assert http.get("/v1/me").json()["data"]["bytes"] == 0


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "Content-Length"),
        ({"content-range": "bytes 0-5"}, "FIRST-LAST/ALL"),
        ({"content-range": "bytes 5-4/9"}, "no part of 9 bytes"),
        ({"content-range": "bytes 5-9/9"}, "no part of 9 bytes"),
        ({"content-range": "bytes 0-4/9", "content-length": "4"}, "has 4 bytes; by its Content-Range .* 5"),
        ({"content-range": "lines 0-4/9"}, "FIRST-LAST/ALL"),
    ],
)
def test_headers_that_do_not_place_the_bytes_are_refused(headers: dict[str, str], said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        place_of(headers)


def test_a_name_that_is_no_digest_is_refused(http: httpx.Client) -> None:
    for method in ("PUT", "GET", "DELETE"):
        answer = http.request(method, "/v1/data/pairs", content=b"x" * 9 if method == "PUT" else None)
        assert (answer.status_code, "64 of 0-9 a-f" in answer.json()["detail"]) == (422, True)


def test_limits_are_told_with_both_numbers_before_anything_is_sent(people: dict[str, httpx.Client]) -> None:
    ada, bob = people["ada"], people["bob"]
    large = ada.put(f"/v1/data/{'a' * 64}", headers={"Content-Range": f"bytes */{2 * SIZE + 1}"})
    assert (large.status_code, large.json()["code"]) == (413, "payload_too_large")
    assert f"has {2 * SIZE + 1} bytes; one upload may have {2 * SIZE}" in large.json()["detail"]
    body = ada.put(f"/v1/data/{'a' * 64}", content=b"x" * (2 * SIZE + 1))
    assert (body.status_code, str(2 * SIZE) in body.json()["detail"]) == (413, True)
    for name in ("a", "b"):
        assert ada.put(f"/v1/data/{name * 64}", headers={"Content-Range": f"bytes */{SIZE}"}).status_code == 202
    full = ada.put(f"/v1/data/{'c' * 64}", headers={"Content-Range": f"bytes */{SIZE + 1}"})
    assert full.status_code == 413
    assert (
        f"has {SIZE + 1} bytes, and your uploads and results take {2 * SIZE} of the {3 * SIZE}" in full.json()["detail"]
    )
    assert full.json()["code"] == "storage_full"
    assert ada.put(URL, content=DATA).status_code == 200
    assert bob.put(URL, content=DATA).status_code == 200


def test_an_upload_may_be_larger_than_another_body(
    serve: Callable[..., httpx.Client], settings: Any, redis_url: str
) -> None:
    client = serve(settings.model_copy(update={"gateway_upload_bytes": 5000, "gateway_body_bytes": 1024}))
    data = encode({"x": Tensor.of(np.zeros((1, 4000), np.uint8))})
    assert client.put(f"/v1/data/{digest_of(data)}", content=data).status_code == 200
    assert client.put(f"/v1/data/{digest_of(data)}", content=bytes(5001)).status_code == 413


def test_what_another_person_sent_is_not_found(people: dict[str, httpx.Client], graph: Make) -> None:
    ada, bob = people["ada"], people["bob"]
    assert ada.put(URL, content=DATA).status_code == 200
    for method in ("GET", "HEAD", "DELETE"):
        assert bob.request(method, URL).status_code == 404
    assert bob.get("/v1/data").json()["uploads"] == []
    refused = bob.post("/v1/jobs", json=adding(graph, {"data": digest_of(DATA)}, "$d.x"))
    assert (refused.status_code, digest_of(DATA) in refused.json()["detail"]) == (404, True)
    assert bob.put(URL, content=DATA).status_code == 200
    assert ada.delete(URL).status_code == 204
    assert bob.get(URL).content == DATA
    assert bob.post("/v1/jobs", json=adding(graph, {"data": digest_of(DATA)}, "$d.x")).status_code == 202


def adding(graph: Make, constant: Any, argument: Any = "$d") -> dict[str, Any]:
    """A document that adds a constant to what it reads."""
    nodes = [*graph()["nodes"], {"kind": "call", "id": "sum", "op": "add", "args": ["$h", argument]}]
    constants = {"prompt": "hello", "layer": 2, "d": constant}
    return graph(nodes=nodes, constants=constants, saves={"sum": "$sum"}, lines={"sum": "study.py:9"})


@pytest.mark.parametrize("inline", [False, True])
def test_a_job_takes_the_upload_along(http: httpx.Client, graph: Make, worker: Any, inline: bool) -> None:
    http.put(f"/v1/data/{digest_of(ONE)}", content=ONE)
    form = {"data": digest_of(ONE)}
    answer = http.post("/v1/jobs?wait=10", json=adding(graph, 1 if inline else form, form if inline else "$d"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["jobs"][0]["saves"]["sum"] == {"shape": [1, 8], "dtype": "float32"}
    [taken] = worker.taken
    assert list(taken.data) == [digest_of(ONE)]


@pytest.mark.parametrize("inline", [False, True])
def test_an_upload_that_is_not_there_is_refused_at_the_authors_line(
    http: httpx.Client, graph: Make, inline: bool
) -> None:
    form = {"data": digest_of(ONE)}
    body = {
        "documents": [adding(graph, 1 if inline else form, form if inline else "$d"), graph()],
        "jobs": [{"id": new_job_id(), "document": at} for at in range(2)],
    }
    refused, other = http.post("/v1/jobs", json=body).json()["jobs"]
    error = refused["error"]
    assert (error["code"], error["node"], error["file"], error["line"]) == ("not_found", "sum", "study.py", 9)
    assert digest_of(ONE) in error["detail"]
    assert other["state"] == "queued"
    http.put(f"/v1/data/{digest_of(ONE)}", headers={"Content-Range": f"bytes */{len(ONE)}"})
    early, _ = http.post("/v1/jobs", json=body).json()["jobs"]
    assert (early["error"]["code"], "0 of the" in early["error"]["detail"]) == ("conflict", True)


def test_columns_that_are_no_tensors_are_refused_with_what_takes_them(http: httpx.Client, graph: Make) -> None:
    http.put(URL, content=DATA)
    refused = http.post("/v1/jobs", json=adding(graph, {"data": digest_of(DATA)}, "$d.text"))
    assert (refused.status_code, "map or fit" in refused.json()["detail"]) == (422, True)
    assert (refused.json()["file"], refused.json()["line"]) == ("study.py", 9)
    whole = http.post("/v1/jobs", json=adding(graph, {"data": digest_of(DATA)}))
    assert "$d.text, $d.x" in whole.json()["detail"]


def test_a_deleted_upload_is_refused_from_then_on(http: httpx.Client, graph: Make) -> None:
    http.put(f"/v1/data/{digest_of(ONE)}", content=ONE)
    assert http.post("/v1/jobs", json=adding(graph, {"data": digest_of(ONE)})).status_code == 202
    assert http.delete(f"/v1/data/{digest_of(ONE)}").status_code == 204
    assert http.get("/v1/me").json()["data"]["bytes"] == len(ONE)
    assert http.post("/v1/jobs", json=adding(graph, {"data": digest_of(ONE)})).status_code == 404


def test_memory_stays_flat_while_a_large_upload_is_taken_and_given(http: httpx.Client) -> None:
    data = encode({"x": Tensor.of(np.zeros((64, 2**18), np.float32))})
    url, half = f"/v1/data/{digest_of(data)}", len(data) // 2
    tracemalloc.start()
    try:
        for start, stop in ((0, half), (half, len(data))):
            place = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}", "Content-Length": str(stop - start)}
            view = memoryview(data)[start:stop]
            content = (bytes(view[at : at + 2**16]) for at in range(0, len(view), 2**16))
            assert http.put(url, content=content, headers=place).status_code in (200, 202)
        with http.stream("GET", url) as answer:
            assert sum(len(chunk) for chunk in answer.iter_raw()) == len(data)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20 < len(data)
    finally:
        tracemalloc.stop()
