"""Who may ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import redis
import redis.asyncio

from telepatch_broker.people import People
from telepatch_protocol.errors import BadArgument
from telepatch_server.metrics import Metrics
from telepatch_server.services import running
from telepatch_server.settings import Settings

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def keyed(
    serve: Callable[[Settings], httpx.Client], settings: Settings, published: object, key: Callable[..., str]
) -> tuple[httpx.Client, dict[str, dict[str, str]]]:
    """A gateway that asks for keys, and headers of two people."""
    people = {name: {"Authorization": f"Bearer {key(name)}"} for name in ("ada", "bob")}
    return serve(settings), people


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
async def test_a_gateway_that_others_reach_does_not_start_without_keys(
    host: str, settings: Settings, client: redis.asyncio.Redis
) -> None:
    outside = settings.model_copy(update={"host": host})
    with pytest.raises(BadArgument, match=f"listens on {host}.*telepatch keys add NAME"):
        async with running(outside, Metrics()):
            pass
    made = await People(client).add("ada")
    await People(client).remove(made.id)  # nobody gets in, and that is safe
    async with running(outside, Metrics()):
        pass


def test_a_key_says_who_one_is(keyed: tuple[httpx.Client, dict[str, dict[str, str]]]) -> None:
    http, people = keyed
    assert http.get("/v1/me", headers=people["bob"]).json()["person"] == "bob"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/jobs"), ("GET", "/v1/jobs"), ("GET", "/v1/jobs/x"), ("DELETE", "/v1/jobs/x"), ("GET", "/v1/me"),
        ("GET", "/v1/jobs/x/result"), ("POST", "/v1/results"), ("GET", "/v1/events"), ("GET", "/v1/models"),
        ("GET", "/v1/models/tiny"), ("POST", "/v1/tokenize"), ("POST", "/v1/detokenize"),
    ],
)  # fmt: skip
def test_without_a_known_key_nothing_is_said(
    keyed: tuple[httpx.Client, dict[str, dict[str, str]]], method: str, path: str
) -> None:
    http, _ = keyed
    for headers in ({}, {"Authorization": "Bearer tp_wrong"}, {"Authorization": "Basic YTpi"}):
        answer = http.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["code"] == "unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_removed_key_is_worthless_at_once_on_every_gateway(
    serve: Callable[[Settings], httpx.Client], settings: Settings, key: Callable[..., str], client: redis.asyncio.Redis
) -> None:
    gateways, people = [serve(settings), serve(settings)], People(client)
    for _ in range(5):
        made = await people.add("ada")
        headers = {"Authorization": f"Bearer {made.key}"}
        assert [one.get("/v1/me", headers=headers).status_code for one in gateways * 2] == [200] * 4
        await people.remove(made.id)
        assert [one.get("/v1/me", headers=headers).status_code for one in gateways] == [401] * 2


async def test_a_stream_of_events_tells_nothing_more_once_its_key_is_removed(
    serve: Callable[[Settings], httpx.Client], settings: Settings, client: redis.asyncio.Redis, worker: Any, graph: Make
) -> None:
    quiet = settings.model_copy(update={"gateway_heartbeat_seconds": 60})
    http, people = serve(quiet), People(client)
    first, second = await people.add("ada"), await people.add("ada")
    headers = {"Authorization": f"Bearer {first.key}"}
    with http.stream("GET", "/v1/events", headers=headers, timeout=60) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("retry:")
        await people.remove(first.id)
        good = {"Authorization": f"Bearer {second.key}"}
        assert http.post("/v1/jobs?wait=20", json=graph(), headers=good).status_code == 200
        assert [line for line in lines if line.startswith("event")] == []


async def test_a_submission_that_waits_gives_no_result_once_its_key_is_removed(
    serve: Callable[[Settings], httpx.Client], settings: Settings, client: redis.asyncio.Redis, worker: Any, graph: Make
) -> None:
    http, people = serve(settings), People(client)
    made = await people.add("ada")
    worker.behave, real = (lambda job: (time.sleep(2), real(job))[1]), worker.behave
    headers = {"Authorization": f"Bearer {made.key}"}
    waiting = asyncio.create_task(asyncio.to_thread(http.post, "/v1/jobs?wait=60", json=graph(), headers=headers))
    while not worker.taken:
        await asyncio.sleep(0.02)
    await people.remove(made.id)
    assert (await waiting).status_code == 401


def test_a_gateway_on_loopback_asks_for_keys_from_the_first_one_on_and_never_stops_to(
    serve: Callable[[Settings], httpx.Client], settings: Settings, key: Callable[..., str]
) -> None:
    http = serve(settings)
    assert http.get("/v1/me").json()["person"] == "local"
    headers = {"Authorization": f"Bearer {key('ada')}"}
    deadline = time.monotonic() + 30
    while http.get("/v1/me").status_code != 401:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert http.get("/v1/me", headers=headers).json()["person"] == "ada"
    with redis.Redis.from_url(settings.redis_url) as emptied:
        emptied.flushall()
    time.sleep(1.2)
    assert http.get("/v1/me").status_code == 401


def test_jobs_of_others_are_not_found(keyed: tuple[httpx.Client, Any], graph: Make, submit: Make, worker: Any) -> None:
    http, people = keyed
    body = submit(graph())
    [job] = http.post("/v1/jobs?wait=10", json=body, headers=people["ada"]).json()["jobs"]
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/result")):
        answer = http.request(method, f"/v1/jobs/{job['id']}{path}", headers=people["bob"])
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert http.get("/v1/jobs", headers=people["bob"]).json()["jobs"] == []
    frames = http.post("/v1/results", json={"jobs": [job["id"]]}, headers=people["bob"])
    assert b'"code":"not_found"' in frames.content
    reference = {"r": {"result": job["id"], "name": "h"}, "prompt": "x", "layer": 1}
    thief = graph(constants=reference, saves={"r": "$r"})
    [refused] = http.post("/v1/jobs", json=submit(thief), headers=people["bob"]).json()["jobs"]
    assert refused["error"]["code"] == "not_found"
    # The same id from another person is a conflict and changes nothing.
    [again] = http.post("/v1/jobs", json=body, headers=people["bob"]).json()["jobs"]
    assert again["error"]["code"] == "conflict"
    assert http.get(f"/v1/jobs/{job['id']}/result", headers=people["ada"]).status_code == 200


def test_on_loopback_without_keys_one_is_local(http: httpx.Client) -> None:
    assert http.get("/v1/me").json()["person"] == "local"
    assert http.get("/v1/me", headers={"Origin": "http://localhost:3000"}).status_code == 200


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "10.0.0.1"}]
)
def test_without_keys_a_web_page_of_somebody_else_gets_nothing(http: httpx.Client, headers: dict[str, str]) -> None:
    answer = http.get("/v1/me", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_watching_needs_no_key(keyed: tuple[httpx.Client, Any]) -> None:
    http, _ = keyed
    assert http.get("/healthz").status_code == 200
    assert http.get("/metrics").status_code == 200
