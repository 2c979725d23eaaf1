"""Health, readiness and metrics."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from telepatch_broker.connection import connect, connect_sync
from telepatch_broker.launcher import embedded_valkey
from telepatch_broker.registry import Registry, WorkerInfo
from telepatch_protocol.errors import TimeLimit
from telepatch_server.common_metrics import OWN, SHARED
from telepatch_server.settings import Settings

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


def test_without_a_worker_it_is_ready_to_take_jobs_where_that_is_the_question(http: httpx.Client) -> None:
    answer = http.get("/readyz?workers=false")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "workers": {}})


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
    assert found["telepatch_workers", "tiny", "idle"] == 1
    assert not any(job["id"] in part for sample in found for part in sample)


def test_two_gateways_of_one_process_count_for_themselves(
    serve: Callable[..., httpx.Client], settings: Any, published: object
) -> None:
    one, two = serve(settings), serve(settings)
    one.get("/healthz")
    assert ("telepatch_requests_total", "GET /healthz", "200") in numbers(one)
    assert ("telepatch_requests_total", "GET /healthz", "200") not in numbers(two)


def test_queues_are_told_by_lane_with_the_age_of_the_oldest_job(
    serve: Callable[..., httpx.Client], settings: Any, published: object, graph: Make
) -> None:
    http = serve(settings)
    http.post("/v1/jobs", json=graph())
    http.post("/v1/jobs", json=graph())
    time.sleep(0.2)
    found = numbers(http)
    assert found["telepatch_queue_jobs", "interactive", "tiny"] == 2
    assert found["telepatch_queue_jobs", "long", "tiny"] == 0
    assert found["telepatch_queue_people", "interactive", "tiny"] == 1
    assert 0.2 <= found["telepatch_queue_oldest_seconds", "interactive", "tiny"] < 60
    assert not [sample for sample in found if "local" in sample]


def test_people_are_named_only_where_the_operator_wants_it(
    serve: Callable[..., httpx.Client], settings: Any, published: object, graph: Make
) -> None:
    http = serve(settings.model_copy(update={"gateway_metrics_people": 5}))
    http.post("/v1/jobs", json=graph())
    assert numbers(http)["telepatch_person_queued_jobs", "interactive", "tiny", "local"] == 1


def test_a_failed_job_is_counted_by_its_code(
    serve: Callable[..., httpx.Client], settings: Any, worker: Any, graph: Make
) -> None:
    worker.behave = lambda job: TimeLimit("too long")
    http = serve(settings)
    http.post("/v1/jobs?wait=10", json=graph())
    found = numbers(http)
    assert found["telepatch_failed_jobs_total", "time_limit", "tiny"] == 1
    assert found["telepatch_attempts_total", "tiny"] == 1


def test_open_streams_of_events_are_counted(
    serve: Callable[..., httpx.Client], settings: Any, published: object
) -> None:
    http = serve(settings)
    with httpx.stream("GET", f"{http.base_url}/v1/events", timeout=20) as stream:
        lines = stream.iter_lines()
        while not next(lines).startswith(": heartbeat"):
            pass
        assert numbers(http)[("telepatch_event_streams",)] == 1
    until = time.monotonic() + 20
    while numbers(http)[("telepatch_event_streams",)] != 0:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_redis_and_the_disk_are_told_of(http: httpx.Client) -> None:
    found = numbers(http)
    assert found[("telepatch_redis_up",)] == found[("telepatch_redis_aof_ok",)] == 1
    assert found[("telepatch_redis_memory_bytes",)] > 100_000
    assert 0 < found[("telepatch_blob_free_bytes",)] < found[("telepatch_blob_disk_bytes",)]


def test_the_page_says_that_redis_is_away_when_it_is(
    serve: Callable[..., httpx.Client], settings: Any, tmp_path: Path
) -> None:
    with embedded_valkey(tmp_path / "queue") as url:
        http = serve(settings.model_copy(update={"redis_url": url, "blobs": tmp_path / "blobs"}))
        http.get("/healthz")
        assert numbers(http)[("telepatch_redis_up",)] == 1
    found = numbers(http)
    assert found[("telepatch_redis_up",)] == 0
    assert found["telepatch_requests_total", "GET /healthz", "200"] == 1
    assert found[("telepatch_blob_free_bytes",)] > 0
    assert ("telepatch_redis_memory_bytes",) not in found


def test_metrics_may_be_for_operators_and_the_other_probes_are_not(
    serve: Callable[..., httpx.Client], settings: Any, published: object, key: Callable[..., str]
) -> None:
    operator, other = key("ops", scope="admin"), key("ada")
    http = serve(settings.model_copy(update={"gateway_metrics": "admin"}))
    answers = [http.get("/metrics", headers={"Authorization": f"Bearer {one}"} if one else {}) for one in ("", other)]
    assert [answer.status_code for answer in answers] == [401, 403]
    assert "--scope admin" in answers[1].json()["detail"]
    assert http.get("/metrics", headers={"Authorization": f"Bearer {operator}"}).status_code == 200
    assert http.get("/healthz").status_code == 200


def test_whoever_uses_this_machine_without_a_key_is_no_operator(
    serve: Callable[..., httpx.Client], settings: Any, published: object
) -> None:
    assert serve(settings.model_copy(update={"gateway_metrics": "admin"})).get("/metrics").status_code == 403
    assert serve(settings).get("/metrics").status_code == 200


@pytest.mark.parametrize(
    ("host", "said", "open"),
    [("127.0.0.1", None, True), ("0.0.0.0", None, False), ("0.0.0.0", "open", True), ("::1", "admin", False)],
)
def test_metrics_are_open_on_loopback_and_for_operators_elsewhere_unless_the_setting_says_otherwise(
    host: str, said: Any, open: bool
) -> None:
    assert Settings(host=host, gateway_metrics=said).metrics_open is open


PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_about_metrics_names_each_with_its_kind_labels_and_meaning_and_no_other(
    serve: Callable[..., httpx.Client], settings: Any, published: object, graph: Make
) -> None:
    rows = re.findall(r"^\| `(telepatch_\w+)` \| (\w+) \| ([^|]*?) \| ([^|]*?) \|$", PAGE.read_text(), re.M)
    told = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in rows}
    http = serve(settings)
    http.post("/v1/jobs", json=graph())
    text = http.get("/metrics").text
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
    helps = dict(re.findall(r"^# HELP (\w+) (.*)$", text, re.M))
    exposed = {name for name in kinds if not name.endswith("_created")}
    assert told.keys() == exposed
    assert {name: kind for name, (kind, _, _) in told.items()} == {name: kinds[name] for name in exposed}
    assert {name: meaning for name, (_, _, meaning) in told.items()} == {name: helps[name] for name in exposed}
    for measure in (*OWN, *SHARED):
        assert told[measure.name][1] == measure.labels
    seen = {name: set(sample[0].labels) for name, *sample in _samples(text)}
    assert {name: set(told[name][1]) for name in seen} == seen


def _samples(text: str) -> list[tuple[str, Any]]:
    """One sample of each metric that has some, without the labels that its kind adds."""
    families = text_string_to_metric_families(text)
    found = []
    for family in families:
        for sample in family.samples[:1]:
            sample.labels.pop("le", None)
            name = f"{family.name}_total" if family.type == "counter" else family.name
            if not name.endswith("_created"):
                found.append((name, sample))
    return found


def test_all_gateways_tell_alike_of_what_they_share(
    serve: Callable[..., httpx.Client], settings: Any, worker: Any, graph: Make
) -> None:
    one, other = serve(settings), serve(settings)
    one.post("/v1/jobs?wait=10", json=graph())
    shared = {measure.name for measure in SHARED if "redis" not in measure.name}
    found = [{sample: value for sample, value in numbers(http).items() if sample[0] in shared} for http in (one, other)]
    assert found[0] == found[1]
    assert found[0]["telepatch_jobs", "tiny", "completed"] == 1
