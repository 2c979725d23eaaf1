"""The queue is killed, full, or does not write: nothing that was accepted is lost, and who asks is told what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from tests.faults.parts import Stack, until
from tests.faults.people import Person, generation, terminal_events, trace

from telepatch_protocol.jobs import new_job_id

pytestmark = pytest.mark.faults
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def try_to_submit(service: Stack, document: dict) -> httpx.Response:
    """One request, without patience."""
    return httpx.post(
        f"{service.url}/v1/jobs",
        json={"documents": [document], "jobs": [{"id": new_job_id(), "document": 0}]},
        timeout=60,
    )


def test_jobs_that_were_accepted_survive_a_queue_that_is_killed(mended: Stack, ada: Person, expected) -> None:
    documents = [trace([1 + at, 2, 3], value=float(at)) for at in range(150)]
    for worker in mended.workers:
        worker.pause()
    ids = ada.submit(*documents)
    mended.queue.kill()
    mended.start_queue()
    for worker in mended.workers:
        worker.resume()
    assert set(ada.ended(ids).values()) == {"completed"}
    for at in (0, 77, 149):
        np.testing.assert_allclose(ada.values(ids[at])["l"], expected(documents[at])["l"], **CLOSE)
    ends = terminal_events(mended, "local")
    assert {ends[id] for id in ids} == {1}


def test_jobs_that_run_survive_a_queue_that_is_killed(mended: Stack, ada: Person, expected) -> None:
    documents = [generation([7, at], 150) for at in range(6)]
    ids = ada.submit(*documents)
    until(lambda: ada.state(ids[0]) == "running", 30)
    mended.queue.kill()
    time.sleep(1.0)
    mended.start_queue()
    assert set(ada.ended(ids).values()) == {"completed"}
    for id, document in zip(ids, documents, strict=True):
        assert ada.values(id)["tokens"].tolist() == expected(document)["tokens"].tolist()
    ends = terminal_events(mended, "local")
    assert {ends[id] for id in ids} == {1}


@pytest.fixture
def set_in_queue(mended: Stack) -> Iterator[Stack]:
    """The service; what a test changes in the queue is undone."""
    yield mended
    with mended.redis() as client:
        client.config_set("maxmemory", 0)
        client.config_set("min-replicas-to-write", 0)
        client.execute_command("REPLICAOF", "NO", "ONE")


def test_what_a_full_queue_no_longer_needs_expires_all_the_same(set_in_queue: Stack, ada: Person) -> None:
    service = set_in_queue
    [id] = ada.submit(trace([4, 4]))
    ada.ended([id])
    with service.redis() as client:
        client.zadd("telepatch:expiry", {id: 1})
        client.delete("telepatch:every:worker-housekeeping:expire_results")
        client.config_set("maxmemory", 1)
        until(lambda: client.hget(f"telepatch:job:{id}", "expired"), 90)


def test_a_full_queue_refuses_what_is_new_and_brings_to_its_end_what_it_has(
    set_in_queue: Stack, ada: Person, expected
) -> None:
    service = set_in_queue
    documents = [generation([3, at], 120) for at in range(4)] + [trace([1 + at, 9]) for at in range(40)]
    for worker in service.workers:
        worker.pause()
    ids = ada.submit(*documents)
    with service.redis() as client:
        client.config_set("maxmemory", 1)
    refused = try_to_submit(service, trace([1, 2]))
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    problem = refused.json()
    assert problem["code"] == "unavailable"
    assert "the queue of this service is full" in problem["detail"]
    assert "run-book has 'Redis is full'" in problem["detail"]
    for worker in service.workers:
        worker.resume()
    assert set(ada.ended(ids).values()) == {"completed"}
    for at in (0, 3, 20):
        name = "tokens" if at < 4 else "l"
        np.testing.assert_allclose(ada.values(ids[at])[name], expected(documents[at])[name], **CLOSE)
    # Longer than a worker counts as alive that says nothing: leases and heartbeats go on.
    time.sleep(4)
    assert httpx.get(f"{service.url}/readyz", timeout=10).status_code == 200
    with service.redis() as client:
        client.config_set("maxmemory", 0)
    [again] = ada.submit(trace([1, 2]))
    assert ada.ended([again]) == {again: "completed"}


@pytest.mark.parametrize("how", ["no replicas", "a replica"])
def test_while_the_queue_does_not_write_jobs_wait_and_then_go_on(
    set_in_queue: Stack, ada: Person, expected, how: str
) -> None:
    service = set_in_queue
    documents = [generation([8, at], 180) for at in range(4)]
    ids = ada.submit(*documents)
    until(lambda: ada.state(ids[0]) == "running", 30)
    with service.redis() as client:
        if how == "a replica":
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
        else:
            client.config_set("min-replicas-to-write", 1)
        refused = try_to_submit(service, trace([1, 2]))
        assert refused.status_code == 503
        assert "can be read and not written to" in refused.json()["detail"]
        assert ada.status(ids[0])["state"] in ("running", "queued")
        time.sleep(3)
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.config_set("min-replicas-to-write", 0)
    assert set(ada.ended(ids).values()) == {"completed"}
    for id, document in zip(ids, documents, strict=True):
        assert ada.values(id)["tokens"].tolist() == expected(document)["tokens"].tolist()
    ends = terminal_events(service, "local")
    assert {ends[id] for id in ids} == {1}
