"""Priorities, limits of time and cancelling as requests say it, and people who leave or read slowly."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis
from tests.server.test_events import listening

from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.jobs import new_job_id
from telepatch_server.settings import Settings

Make = Callable[..., dict[str, Any]]
MANY = 5000
"""Events that a slow reader does not read, while two fifths of them are kept."""


def status(http: httpx.Client, id: str) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/v1/jobs/{id}").json()
    return found


def test_priority_and_limit_of_time_are_said_for_a_job_or_for_a_request(
    http: httpx.Client, graph: Make, submit: Make
) -> None:
    body = submit(graph(), graph())
    body["jobs"][0] |= {"priority": "low", "timeout_seconds": 5}
    answer = http.post("/v1/jobs?priority=high&timeout_seconds=7.5", json=body)
    assert answer.status_code == 202
    own, general = (status(http, job["id"]) for job in body["jobs"])
    assert (own["priority"], own["timeout_seconds"]) == ("low", 5)
    assert (general["priority"], general["timeout_seconds"]) == ("high", 7.5)
    bare = http.post("/v1/jobs?priority=low", json=graph()).json()["jobs"][0]
    assert status(http, bare["id"])["priority"] == "low"
    plain = http.post("/v1/jobs", json=graph()).json()["jobs"][0]
    assert not {"priority", "timeout_seconds"} & status(http, plain["id"]).keys()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"priority": "urgent"}, "'low', 'normal' or 'high'"),
        ({"timeout_seconds": 0}, "greater than 0"),
        ({"timeout_seconds": 1e9}, "timeout_seconds is 1e+09; model 'tiny' gives a job like this 120 s at the most"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(
    http: httpx.Client, graph: Make, submit: Make, more: dict[str, Any], words: str
) -> None:
    body = submit(graph())
    body["jobs"][0] |= more
    answer = http.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert words in answer.text
    [(name, value)] = more.items()
    assert words in http.post(f"/v1/jobs?{name}={value}", json=graph()).text


def test_people_may_hurry_where_the_operator_says_so() -> None:
    for named, who, may in (
        ("", "ada", False),
        ("ada, bob", "bob", True),
        ("ada,bob", "eve", False),
        ("*", "eve", True),
    ):
        assert Settings(gateway_high_priority=named).may_hurry(who) is may


def test_many_jobs_are_cancelled_by_one_request(http: httpx.Client, graph: Make, submit: Make) -> None:
    body = submit(*[graph() for _ in range(30)])
    http.post("/v1/jobs", json=body)
    ids = [job["id"] for job in body["jobs"]]
    stranger = new_job_id()
    answer = http.post("/v1/jobs/cancel", json={"jobs": [*ids[:10], stranger, ids[0]]})
    assert answer.status_code == 200
    *found, last, again = answer.json()["jobs"]
    assert found == [{"id": id, "state": "cancelled"} for id in ids[:10]]
    assert (last["id"], last["error"]["code"]) == (stranger, "not_found")
    assert again == found[0]
    assert status(http, ids[10])["state"] == "queued"
    rest = http.post("/v1/jobs/cancel", json={"jobs": "all"}).json()["jobs"]
    assert sorted(one["id"] for one in rest) == sorted(ids[10:])
    assert http.post("/v1/jobs/cancel", json={"jobs": "all"}).json() == {"jobs": []}


def test_a_cancellation_that_makes_no_sense_is_refused(
    serve: Callable[[Settings], httpx.Client], settings: Settings, http: httpx.Client
) -> None:
    for body, words in (({"jobs": "some"}, "all"), ({"jobs": ["x"]}, "UUID"), ({}, "jobs"), ({"ids": []}, "jobs")):
        answer = http.post("/v1/jobs/cancel", json=body)
        assert answer.status_code == 422
        assert words in answer.text
    small = serve(settings.model_copy(update={"gateway_jobs": 2}))
    answer = small.post("/v1/jobs/cancel", json={"jobs": [new_job_id() for _ in range(3)]})
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


def test_a_job_that_failed_before_it_was_cancelled_stays_so(
    http: httpx.Client, graph: Make, submit: Make, worker: Any
) -> None:
    worker.behave = lambda job: ExecutionError("no")
    body = submit(graph())
    http.post("/v1/jobs?wait=10", json=body)
    [one] = http.post("/v1/jobs/cancel", json={"jobs": [body["jobs"][0]["id"]]}).json()["jobs"]
    assert one["state"] == "failed"


def spoken(url: str, text: str, body: bytes = b"") -> socket.socket:
    """A connection on which a request was sent, and nothing read."""
    address = urlsplit(url)
    made = socket.create_connection((address.hostname or "", address.port or 0))
    made.sendall(f"{text} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return made


def test_nobody_waits_on_for_a_client_that_is_gone(
    http: httpx.Client, common_url: str, graph: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from telepatch_broker.events import EventHub

    going: list[int] = []
    plain = EventHub.wait_for

    async def counted(self: EventHub, *given: Any) -> set[str]:
        going.append(1)
        try:
            return await plain(self, *given)
        finally:
            going.pop()

    monkeypatch.setattr(EventHub, "wait_for", counted)
    clients = [spoken(common_url, "POST /v1/jobs?wait=60", json.dumps(graph()).encode()) for _ in range(5)]
    deadline = time.monotonic() + 20
    while len(going) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(going) == 5
    for one in clients:
        one.close()
    while going and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not going
    assert len(http.get("/v1/jobs?state=queued").json()["jobs"]) == 5, "their jobs are still there"


def test_a_slow_reader_holds_nobody_up_and_is_told_what_it_missed(
    http: httpx.Client, common_url: str, redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as client, listening(http) as quick:
        slow = spoken(common_url, "GET /v1/events")
        assert b"200 OK" in slow.recv(4096)
        time.sleep(0.2)
        heard: list[int] = []

        def listen() -> None:
            while len(heard) < MANY:
                heard.append(quick.event().data["number"])

        listener = threading.Thread(target=listen)
        listener.start()
        for start in range(0, MANY, 500):
            pipeline = client.pipeline()
            for number in range(start, start + 500):
                told = {
                    "type": "log",
                    "job": "j",
                    "at": 1,
                    "data": json.dumps({"number": number, "filler": "x" * 3000}),
                }
                pipeline.xadd("telepatch:person:local:events", told, maxlen=2000)
            pipeline.publish("telepatch:doorbell", "local")
            pipeline.execute()
            while len(heard) < start:
                time.sleep(0.01)  # the quick one keeps up
        listener.join(60)
        assert heard == list(range(MANY))
        slow.settimeout(10)
        told_of, before = False, b""
        while f'"number":{MANY - 1}'.encode() not in before:
            piece = slow.recv(1 << 20)
            assert piece, "the stream ended"
            told_of = told_of or b"event: missed" in before[-20:] + piece
            before = before[-100:] + piece
        slow.close()
    assert told_of
