"""The gateway as a process."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import connect
from telepatch_broker.shared import check_shared
from telepatch_protocol.errors import Unavailable
from telepatch_server.serve import listening, url_of


@contextmanager
def process(settings: Any, *arguments: str, drain: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``telepatch gateway``, and the address that it printed."""
    command = [sys.executable, "-m", "telepatch", "gateway", "--port", "0", "--redis-url", settings.redis_url]
    found = subprocess.Popen(
        [*command, "--blobs", str(settings.blobs), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("TELEPATCH_")},
            "TELEPATCH_GATEWAY_DRAIN_SECONDS": drain,
        },
    )
    try:
        assert found.stdout is not None
        line = found.stdout.readline()
        match = re.fullmatch(r"telepatch gateway listens on (\S+)\n", line)
        yield found, match[1] if match else ""
    finally:
        if found.poll() is None:
            found.kill()
        found.communicate(timeout=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_ends_when_asked_with_streams_open(settings: Any, number: signal.Signals) -> None:
    with process(settings) as (gateway, url):
        assert httpx.get(f"{url}/healthz").json() == {"alive": True}
        with httpx.stream("GET", f"{url}/v1/events", timeout=10) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("retry:")
            gateway.send_signal(number)
            assert ": this gateway ends" in "\n".join(lines)
        assert gateway.wait(4) in (0, -number)
        assert gateway.stderr is not None
        said = [json.loads(line) for line in gateway.stderr.read().splitlines()]
        assert {(line["event"], line["level"]) for line in said} == {("request", "info")}


def test_a_waiting_submission_is_answered_when_the_gateway_ends(
    settings: Any, published: object, graph: Callable[..., dict[str, Any]]
) -> None:
    with process(settings) as (gateway, url), httpx.Client(base_url=url, timeout=20) as http:

        def end_it() -> None:
            while not httpx.get(f"{url}/v1/jobs").json()["jobs"]:
                time.sleep(0.05)
            gateway.terminate()

        thread = threading.Thread(target=end_it)
        thread.start()
        answer = http.post("/v1/jobs?wait=30", json=graph())
        thread.join()
        assert (answer.status_code, answer.json()["jobs"][0]["state"]) == (202, "queued")
        assert gateway.wait(5) in (0, -signal.SIGTERM)


def test_asked_to_end_it_says_that_it_is_not_ready_while_it_still_answers(
    settings: Any, published: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with process(settings, drain="3") as (gateway, url), httpx.Client(base_url=url, timeout=20) as http:
        gateway.terminate()
        until = time.monotonic() + 2
        while "about to end" not in (ready := http.get("/readyz")).text and time.monotonic() < until:
            time.sleep(0.02)
        assert ready.status_code == 503
        assert http.get("/v1/models").status_code == 200
        assert http.get("/v1/events").status_code == 503
        assert gateway.wait(20) == 0


def test_asked_twice_it_ends_at_once(settings: Any, published: object) -> None:
    with process(settings, drain="60") as (gateway, url):
        gateway.terminate()
        while "about to end" not in httpx.get(f"{url}/readyz").text:
            time.sleep(0.02)
        assert gateway.poll() is None
        gateway.terminate()
        assert gateway.wait(5) == 0


def test_it_listens_for_others_only_with_keys(settings: Any, key: Callable[..., str]) -> None:
    with process(settings, "--host", "0.0.0.0") as (gateway, url):
        assert url == ""
        assert gateway.wait(60) == 2
        assert gateway.stderr is not None
        said = gateway.stderr.read()
        assert "telepatch keys add NAME" in said
        assert said.count("\n") == 1
    headers = {"Authorization": f"Bearer {key('ada')}"}
    with process(settings, "--host", "0.0.0.0") as (_, url):
        port = url.rpartition(":")[2]
        assert httpx.get(f"http://127.0.0.1:{port}/v1/me", headers=headers).json()["person"] == "ada"
        assert httpx.get(f"http://127.0.0.1:{port}/v1/me").status_code == 401


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"redis_url": "localhost"}, 2, "TELEPATCH_REDIS_URL"),
        ({"blobs": "elsewhere"}, 3, "the blob store of this process does not hold"),
    ],
)
def test_what_keeps_it_from_starting_is_one_line(
    settings: Any, http: object, tmp_path: Any, change: dict[str, str], code: int, says: str
) -> None:
    asyncio.run(_leave_nonce(settings))
    told = {"redis_url": settings.redis_url, "blobs": str(settings.blobs)} | change
    with process(settings.model_copy(update=told | {"blobs": tmp_path / told["blobs"]})) as (gateway, url):
        assert (url, gateway.wait(20)) == ("", code)
        assert gateway.stderr is not None
        said = gateway.stderr.read()
        assert says in said
        assert said.count("\n") == 1


async def _leave_nonce(settings: Any) -> None:
    client = connect(settings.redis_url)
    await check_shared(DirectoryBlobs(settings.blobs), client)
    await client.aclose()


def test_a_taken_port_is_named(settings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {port}"):
            listening("127.0.0.1", port)


def test_both_kinds_of_address_are_listened_on() -> None:
    with listening("localhost", 0) as four:
        assert url_of(four).startswith("http://")
    if socket.has_ipv6:
        with listening("::1", 0) as six:
            assert url_of(six).startswith("http://[::1]:")


def test_small_answers_are_not_held_back(http: httpx.Client) -> None:
    took = []
    for _ in range(15):
        began = time.monotonic()
        http.get("/healthz")
        took.append(time.monotonic() - began)
    # Nagle's algorithm and delayed acknowledgements together would make it 40 ms.
    assert statistics.median(took) < 0.03
