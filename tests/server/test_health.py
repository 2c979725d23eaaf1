"""Health, readiness and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

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
