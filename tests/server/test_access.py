"""Every request has an id and a line in the log."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import structlog

from telepatch_broker import logs

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What gateways of this process log."""
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure("debug", "json", stream)
    yield stream
    root.handlers, root.level = before
    structlog.reset_defaults()


def lines(stream: io.StringIO, event: str, number: int = 1) -> list[dict[str, Any]]:
    """The lines of an event, once there are so many."""
    until = time.monotonic() + 20
    found: list[dict[str, Any]] = []
    while len(found) < number and time.monotonic() < until:
        found = [one for one in map(json.loads, stream.getvalue().splitlines()) if one["event"] == event]
        time.sleep(0.01)
    return found


def test_an_answer_carries_the_id_of_its_request(http: httpx.Client) -> None:
    assert http.get("/healthz", headers={"X-Request-Id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    minted = [http.get("/healthz").headers["x-request-id"] for _ in range(2)]
    assert len(set(minted)) == 2
    assert all(len(one) == 16 for one in minted)


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, 'say "hi"', "-leading", "{}"])
def test_an_id_that_could_spoil_a_log_is_replaced(http: httpx.Client, given: str) -> None:
    assert http.get("/healthz", headers={"X-Request-Id": given}).headers["x-request-id"] != given


def test_an_error_carries_the_id_too(http: httpx.Client) -> None:
    answer = http.get("/v1/jobs/nonsense", headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (422, "mine")


def test_a_request_is_one_line_with_who_what_and_how(
    serve: Callable[..., httpx.Client], settings: Any, worker: Any, graph: Make, written: io.StringIO
) -> None:
    http = serve(settings)
    [job] = http.post("/v1/jobs?wait=10", json=graph(), headers={"X-Request-Id": "r1"}).json()["jobs"]
    http.get(f"/v1/jobs/{job['id']}", headers={"X-Request-Id": "r2"})
    first, second = lines(written, "request", 2)
    assert (first["call"], first["status"], first["person"], first["request"]) == ("POST /v1/jobs", 200, "local", "r1")
    assert first["ms"] > 0
    assert first["bytes"] > 100
    assert (second["call"], second["job"], second["request"]) == ("GET /v1/jobs/{id}", job["id"], "r2")


def test_what_became_of_a_submission_is_one_line_and_its_id_goes_with_the_jobs(
    serve: Callable[..., httpx.Client], settings: Any, worker: Any, graph: Make, submit: Make, written: io.StringIO
) -> None:
    body = submit(graph(), graph(saves={"x": "$nothing"}))
    serve(settings).post("/v1/jobs?wait=10", json=body, headers={"X-Request-Id": "r1"})
    good, bad = [job["id"] for job in body["jobs"]]
    [line] = lines(written, "jobs_submitted")
    assert (line["person"], line["jobs"], line["refused"]) == ("local", {good: "tiny"}, {bad: "unknown_name"})
    assert [job.origin for job in worker.taken] == [{"request": "r1"}]


def test_what_machines_ask_all_the_time_is_written_at_debug_level_unless_it_fails(
    serve: Callable[..., httpx.Client], settings: Any, written: io.StringIO
) -> None:
    http = serve(settings)
    http.get("/healthz")
    http.get("/readyz")
    alive, ready = lines(written, "request", 2)
    assert (alive["level"], alive["status"]) == ("debug", 200)
    assert (ready["level"], ready["status"]) == ("info", 503)


def test_a_cancelled_job_is_a_line(
    serve: Callable[..., httpx.Client], settings: Any, published: object, graph: Make, written: io.StringIO
) -> None:
    http = serve(settings)
    [job] = http.post("/v1/jobs", json=graph()).json()["jobs"]
    http.delete(f"/v1/jobs/{job['id']}")
    [line] = lines(written, "job_cancelled")
    assert (line["job"], line["person"], line["model"]) == (job["id"], "local", "tiny")
