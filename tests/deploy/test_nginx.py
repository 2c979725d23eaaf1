"""``deploy/nginx/telepatch.conf``, read by nginx itself, in front of real gateways and workers."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from tests.deploy.fleet import TOKEN, Fleet, Gateway, answers, fleet, read, until
from tests.deploy.proxy import CONFIGURATION, Proxy, command, proxy, written

import telepatch

MODEL = "gpt2-random"
PEOPLE = 6
TRACES = 200
TOGETHER = 10
PROMPTS = 7


def directive(name: str) -> list[str]:
    """The values that a directive has in the configuration."""
    return re.findall(rf"^\s*{name} (.*);$", CONFIGURATION.read_text(), re.M)


def test_nginx_finds_no_fault_in_the_configuration(tmp_path: Path) -> None:
    written(tmp_path, [8000, 8001], 8443, 8080)
    told = subprocess.run(command(tmp_path, "-t"), capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "warn" not in told.stderr


def test_silence_is_borne_for_longer_than_the_gateway_is_silent() -> None:
    from telepatch_server.settings import Settings

    fields = Settings.model_fields
    borne = min(int(value.removesuffix("s")) for value in directive("proxy_read_timeout"))
    assert borne > fields["gateway_heartbeat_seconds"].default
    assert borne > fields["gateway_wait_seconds"].default


@pytest.fixture
def running(tmp_path: Path, redis_url: str) -> Iterator[Fleet]:
    with fleet(tmp_path, redis_url) as made:
        yield made


def connected(front: Proxy, key: str) -> telepatch.Lab:
    """A person behind the proxy."""
    return telepatch.connect(front.url, key, transport=front.transport(), progress=False, show=None)


def trace(model: Any, number: int) -> Any:
    """One of some traces that each have their own answer."""
    with model.trace(f"prompt {number % PROMPTS}"):
        return model.lm_head.output[:, -1].save()


class Person(threading.Thread):
    """Somebody who sends some traces at once, looks at all of them, and sends the next."""

    def __init__(self, front: Proxy, key: str) -> None:
        super().__init__(daemon=True)
        self.lab = connected(front, key)
        self.model = self.lab.model(MODEL)
        self.found: list[np.ndarray[Any, Any]] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for _ in range(0, TRACES, TOGETHER):
                first = len(self.found)
                self.found += telepatch.gather([trace(self.model, first + number) for number in range(TOGETHER)])
        except BaseException as error:
            self.error = error


def stopped_at_work(worker: subprocess.Popen[str], client: redis.Redis) -> bool:
    """Whether the worker, which is stopped now, holds a job; it goes on if it does not."""
    worker.send_signal(signal.SIGSTOP)
    for job in client.scan_iter("telepatch:job:*"):
        state, holder = client.hmget(job, "state", "worker")
        if state == b"running" and f"-{worker.pid}-" in (holder or b"").decode():
            return True
    worker.send_signal(signal.SIGCONT)
    return False


def statuses(gateway: Gateway, keys: list[str]) -> list[dict[str, Any]]:
    """Of all jobs of some people."""
    url = f"{gateway.url}/v1/jobs?limit=1000"
    answers = [httpx.get(url, headers={"Authorization": f"Bearer {key}"}).json() for key in keys]
    return [job for one in answers for job in one["jobs"]]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_gateway_and_a_worker_are_killed_and_nobody_loses_anything(running: Fleet, tmp_path: Path) -> None:
    keys = [running.key(f"person-{number}") for number in range(PEOPLE)]
    gateways = [running.gateway() for _ in range(2)]
    workers = [running.worker(MODEL) for _ in range(3)]
    (tmp_path / "nginx").mkdir()
    with (
        proxy(tmp_path / "nginx", [one.port for one in gateways]) as front,
        redis.Redis.from_url(running.redis_url) as client,
    ):
        ready = f"{gateways[0].url}/readyz"
        until(lambda: httpx.get(ready).json().get("workers") == {MODEL: 3}, f"three workers: {running.said('worker')}")
        people = [Person(front, key) for key in keys]
        for one in people:
            one.start()
        until(lambda: sum(len(one.found) for one in people) >= PEOPLE * TRACES // 3, "a third of the traces")
        assert all(gateway.asked("POST /v1/jobs") > 0 for gateway in gateways)
        until(lambda: stopped_at_work(workers[0], client), "a job in the hands of the first worker")
        workers[0].kill()
        gateways[0].process.kill()
        for one in people:
            one.join(240)
        assert [one.error for one in people] == [None] * PEOPLE
        assert [len(one.found) for one in people] == [TRACES] * PEOPLE
        for one in people:
            for number, found in enumerate(one.found):
                np.testing.assert_allclose(found, people[0].found[number % PROMPTS], atol=1e-4)
            one.lab.close()
        jobs = statuses(gateways[1], keys)
        assert [job["state"] for job in jobs] == ["completed"] * PEOPLE * TRACES
        assert any(job["attempts"] > 1 for job in jobs)


async def stream(http: httpx.AsyncClient, url: str, key: str, place: str | None) -> Any:
    """Frames of a person's events from a place on, until the connection breaks."""
    headers = {"Authorization": f"Bearer {key}"} | ({"Last-Event-ID": place} if place else {})
    async with http.stream("GET", f"{url}/v1/events", headers=headers, timeout=60) as answer:
        answer.raise_for_status()
        fields: dict[str, str] = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif fields:
                yield fields
                fields = {}


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_stream_of_events_goes_on_at_the_other_gateway_where_it_broke(running: Fleet, tmp_path: Path) -> None:
    key = await asyncio.to_thread(running.key, "ada")
    gateways = [running.gateway() for _ in range(2)]
    running.worker(MODEL)
    until(lambda: answers(f"{gateways[0].url}/readyz"), running.said("worker"))
    (tmp_path / "nginx").mkdir()
    with proxy(tmp_path / "nginx", [one.port for one in gateways]) as front:
        lab = await asyncio.to_thread(connected, front, key)
        model = await asyncio.to_thread(lab.model, MODEL)
        async with httpx.AsyncClient(verify=front.trust) as http:
            before = [one.asked("GET /v1/events") for one in gateways]
            frames = stream(http, front.url, key, None)
            place = (await anext(frames))["id"]
            await asyncio.to_thread(lambda: trace(model, 1).numpy())
            told: list[dict[str, Any]] = []
            while not any(one.get("event") == "completed" for one in told):
                told.append(await asyncio.wait_for(anext(frames), 30))
                place = told[-1].get("id", place)
            # Events come as they happen, not once a buffer is full.
            assert time.time() - json.loads(told[-1]["data"])["at"] < 5
            [holder] = [
                one for one, count in zip(gateways, before, strict=True) if one.asked("GET /v1/events") > count
            ][:1]
            holder.process.kill()
            with pytest.raises(httpx.TransportError):
                while True:
                    await asyncio.wait_for(anext(frames), 30)
            again = await asyncio.to_thread(lambda: trace(model, 2).numpy())
            assert again.shape[-1] == model.card.vocabulary
            frames = stream(http, front.url, key, place)
            later: list[dict[str, Any]] = []
            while not any(one.get("event") == "completed" for one in later):
                later.append(await asyncio.wait_for(anext(frames), 30))
            assert not any(one.get("event") == "missed" for one in later)
            seen = {one["id"] for one in told}
            assert not any(one["id"] in seen for one in later if "event" in one)
        await asyncio.to_thread(lab.close)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_proxy_shows_no_metrics_and_sends_plain_requests_to_tls(running: Fleet, tmp_path: Path) -> None:
    running.key("ada")
    gateway = running.gateway()
    (tmp_path / "nginx").mkdir()
    with proxy(tmp_path / "nginx", [gateway.port]) as front, httpx.Client(verify=front.trust) as http:
        assert http.get(f"{front.url}/metrics").status_code == 404
        answer = http.get(f"{front.plain}/v1/jobs?limit=1")
        assert (answer.status_code, answer.headers["Location"]) == (308, "https://127.0.0.1/v1/jobs?limit=1")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_body_that_is_too_large_is_refused_in_the_gateways_words(running: Fleet, tmp_path: Path) -> None:
    key = running.key("ada")
    gateway = running.gateway()
    (tmp_path / "nginx").mkdir()
    with proxy(tmp_path / "nginx", [gateway.port]) as front, httpx.Client(verify=front.trust) as http:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        answer = http.post(f"{front.url}/v1/jobs", content=b" " * (65 * 2**20), headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_on_another_host_sends_large_results_through_the_proxy(running: Fleet, tmp_path: Path) -> None:
    key = running.key("ada")
    gateways = [running.gateway() for _ in range(2)]
    (tmp_path / "nginx").mkdir()
    with proxy(tmp_path / "nginx", [one.port for one in gateways]) as front:
        own = {
            "TELEPATCH_GATEWAY_URL": front.url,
            "TELEPATCH_WORKER_TOKEN": TOKEN,
            "SSL_CERT_FILE": str(front.authority),
            "TELEPATCH_BLOBS": str(tmp_path / "elsewhere"),
        }
        worker = running.worker(MODEL, **own)
        until(lambda: answers(f"{gateways[0].url}/readyz") or worker.poll() is not None, "a worker")
        assert worker.poll() is None, running.said("worker")
        with connected(front, key) as lab:
            assert read(lab, MODEL, 45) == (1, 225, 257)
        assert running.has_blob(300_000)
