"""Gateways that are killed or asked twice, and clients that vanish, do not read, or are of another version."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
from tests.faults.parts import MODEL, Stack, until
from tests.faults.people import Person, generation, terminal_events, trace

import telepatch
from telepatch_protocol import PROTOCOL
from telepatch_protocol.jobs import new_job_id

pytestmark = pytest.mark.faults
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
GOLDEN = Path(__file__).parents[1] / "wire"


def test_clients_that_wait_when_their_gateway_is_killed_get_their_results(mended: Stack, expected) -> None:
    with telepatch.connect(mended.url, progress=False) as lab:
        model = lab.model(MODEL)
        with model.generate(ids=[5, 6, 7], max_new_tokens=150) as long:
            tokens = long.generated.save()
        kept = []
        for at in range(20):
            with model.trace(ids=[1 + at, 2, 3]):
                kept.append(model.lm_head.output[:, -1].save())
        until(lambda: lab.status(long).state == "running", 30)
        killed = threading.Timer(0.3, mended.gateways[0].kill)
        killed.start()
        killed.join()
        threading.Timer(2.0, mended.gateways[0].start).start()
        with model.trace(ids=[9, 9, 9]):
            while_away = model.lm_head.output[:, -1].save()
        found = telepatch.gather([*kept, while_away])
        generated = tokens.numpy()
    assert generated.tolist() == expected(generation([5, 6, 7], 150))["tokens"].tolist()
    for at, value in enumerate(found[:20]):
        np.testing.assert_allclose(value, expected(trace([1 + at, 2, 3]))["l"], **CLOSE)
    np.testing.assert_allclose(found[20], expected(trace([9, 9, 9]))["l"], **CLOSE)


def test_the_same_jobs_sent_to_two_gateways_at_once_are_the_same_jobs(service: Stack, ada: Person, expected) -> None:
    documents = [trace([1 + at, 7]) for at in range(20)]
    ids = [new_job_id() for _ in documents]
    body = {"documents": documents, "jobs": [{"id": id, "document": at} for at, id in enumerate(ids)]}

    def post(at: int) -> int:
        return httpx.post(f"{service.urls[at % 2]}/v1/jobs", json=body, timeout=60).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(post, range(16))) <= {200, 202}
    assert set(ada.ended(ids).values()) == {"completed"}
    ends = terminal_events(service, "local")
    assert [ends[id] for id in ids] == [1] * 20
    with service.redis() as client:
        rows = client.xrange("telepatch:person:local:events")
    begun = [fields[b"job"].decode() for _, fields in rows if fields[b"type"] == b"running"]
    assert all(begun.count(id) == 1 for id in ids)
    for at in (0, 19):
        np.testing.assert_allclose(ada.values(ids[at])["l"], expected(documents[at])["l"], **CLOSE)


def raw(service: Stack, head: str, body: bytes = b"") -> socket.socket:
    """A connection on which a request has begun."""
    place = urlsplit(service.url)
    connection = socket.create_connection((place.hostname, place.port), timeout=30)
    connection.sendall(f"{head}\r\nHost: 127.0.0.1\r\n\r\n".encode() + body)
    return connection


def test_a_client_that_vanishes_leaves_nothing_or_a_job_that_completes(service: Stack, ada: Person) -> None:
    id = new_job_id()
    body = json.dumps({"documents": [trace([3, 3])], "jobs": [{"id": id, "document": 0}]}).encode()
    head = f"POST /v1/jobs?wait=30 HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    # In the middle of what it says.
    raw(service, head, body[: len(body) // 2]).close()
    time.sleep(0.3)
    assert ada.ask("GET", f"/v1/jobs/{id}").status_code == 404
    # While it waits for the answer.
    waiting = raw(service, head, body)
    until(lambda: ada.ask("GET", f"/v1/jobs/{id}").status_code == 200, 60)
    waiting.close()
    assert ada.ended([id]) == {id: "completed"}


def test_a_reader_that_does_not_read_holds_up_nobody_and_takes_little_memory(service: Stack, ada: Person) -> None:
    gateway = psutil.Process(service.gateways[0].pid)
    readers = [raw(service, "GET /v1/events HTTP/1.1\r\nAccept: text/event-stream") for _ in range(20)]
    try:
        before = gateway.memory_info().rss
        ids = [id for _ in range(6) for id in ada.submit(*[trace([1 + at % 200, 5]) for at in range(100)])]
        assert set(ada.ended(ids, 240).values()) == {"completed"}
        assert ada.ask("GET", "/healthz").status_code == 200
        grown = gateway.memory_info().rss - before
    finally:
        for reader in readers:
            reader.close()
    assert grown < 100 * 2**20, f"{grown:,} bytes for readers that do not read"


def test_documents_of_every_minor_version_so_far_run_and_a_newer_one_is_refused_by_name(
    service: Stack, ada: Person, expected
) -> None:
    wanted = expected(trace([6, 7]))["l"]
    for minor in range(PROTOCOL[1] + 1):
        [id] = ada.submit(trace([6, 7]) | {"protocol": [PROTOCOL[0], minor]})
        assert ada.ended([id]) == {id: "completed"}
        np.testing.assert_allclose(ada.values(id)["l"], wanted, **CLOSE)
    newer = [PROTOCOL[0], PROTOCOL[1] + 1]
    answer = httpx.post(f"{service.url}/v1/jobs", json=trace([6, 7]) | {"protocol": newer}, timeout=30)
    assert answer.status_code == 400
    assert answer.json()["code"] == "version_error"
    assert f"protocol {newer} is not spoken here; this side speaks [1, 0] to {list(PROTOCOL)}" in answer.text
