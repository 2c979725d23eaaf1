"""Health, readiness and metrics."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from telepatch_broker.connection import connect, connect_sync
from telepatch_broker.launcher import embedded_valkey
from telepatch_broker.registry import Registry, WorkerInfo

Make = Callable[..., dict[str, Any]]


def numbers(http: httpx.Client) -> dict[tuple[str, ...], float]:
    """Every sample by name and labels."""
    return {
        (sample.name, *[sample.labels[name] for name in sorted(sample.labels)]): sample.value
        for family in text_string_to_metric_families(http.get("/metrics").text)
        for sample in family.samples
    }


def test_without_a_worker_the_gateway_is_alive_but_not_ready(http: httpx.Client) -> None:
    assert http.get("/healthz").status_code == 200
    answer = http.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "no worker" in answer.json()["detail"]


def test_with_a_worker_it_is_ready(http: httpx.Client, worker: Any, graph: Make) -> None:
    http.post("/v1/jobs?wait=10", json=graph())
    assert http.get("/readyz").json() == {"ready": True, "workers": {"tiny": 1}}


def test_a_worker_that_drains_does_not_make_it_ready(http: httpx.Client, redis_url: str, published: object) -> None:
    async def tell(state: str) -> None:
        async with connect(redis_url) as client:
            info = WorkerInfo(id="w9", model="tiny", host="h", pid=1, device="cpu", started=1.0)
            await Registry(client).heartbeat(info.model_copy(update={"state": state}))

    asyncio.run(tell("ready"))
    assert http.get("/readyz").status_code == 200
    asyncio.run(tell("draining"))
    assert http.get("/readyz").status_code == 503


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), "queue takes writes: no"),
        (("REPLICAOF", "127.0.0.1", "1"), "TELEPATCH_REDIS_URL at the primary"),
    ],
)
def test_a_queue_that_takes_no_writes_is_not_ready(
    serve: Callable[..., httpx.Client], settings: Any, tmp_path: Any, trouble: tuple[str, ...], says: str
) -> None:
    with embedded_valkey(tmp_path / "valkey") as url, connect_sync(url) as client:
        own = settings.model_copy(update={"redis_url": url, "blobs": tmp_path / "blobs"})
        http = serve(own)
        client.execute_command(*trouble)
        answer = http.get("/readyz")
        assert answer.status_code == 503
        assert says in answer.json()["detail"]
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.execute_command("CONFIG", "SET", "maxmemory", "0")


def test_a_blob_store_that_cannot_be_written_is_not_ready(
    serve: Callable[..., httpx.Client], settings: Any, tmp_path: Any, redis_url: str, published: object
) -> None:
    with embedded_valkey(tmp_path / "valkey") as url:
        http = serve(settings.model_copy(update={"redis_url": url, "blobs": tmp_path / "blobs"}))
        shutil.rmtree(tmp_path / "blobs")
        (tmp_path / "blobs").write_text("no folder any more")
        answer = http.get("/readyz")
        assert answer.status_code == 503
        assert "the blob store cannot be written to" in answer.json()["detail"]


def test_requests_and_jobs_are_counted_by_call_and_not_by_id(
    serve: Callable[..., httpx.Client], settings: Any, worker: Any, graph: Make
) -> None:
    http = serve(settings)
    [job] = http.post("/v1/jobs?wait=10", json=graph()).json()["jobs"]
    http.post("/v1/jobs", json=graph(saves={}))
    http.get(f"/v1/jobs/{job['id']}")
    http.get("/v1/jobs/no-uuid")
    http.get("/nothing/at/all")
    found = numbers(http)
    assert found["telepatch_requests_total", "GET /v1/jobs/{id}", "200"] == 1
    assert found["telepatch_requests_total", "GET /v1/jobs/{id}", "422"] == 1
    assert found["telepatch_requests_total", "GET unknown", "404"] == 1
    assert found["telepatch_request_seconds_count", "POST /v1/jobs"] == 2
    assert found["telepatch_submitted_jobs_total", "queued"] == 1
    assert found["telepatch_submitted_jobs_total", "bad_argument"] == 1
    assert found["telepatch_jobs", "tiny", "completed"] == 1
    assert found["telepatch_workers", "tiny"] == 1
    assert not any(job["id"] in part for sample in found for part in sample)


def test_two_gateways_of_one_process_count_for_themselves(
    serve: Callable[..., httpx.Client], settings: Any, published: object
) -> None:
    one, two = serve(settings), serve(settings)
    one.get("/healthz")
    assert ("telepatch_requests_total", "GET /healthz", "200") in numbers(one)
    assert ("telepatch_requests_total", "GET /healthz", "200") not in numbers(two)
