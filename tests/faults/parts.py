"""A whole service as separate processes, each of which can be killed, held up and started again."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from telepatch_broker.connection import connect
from telepatch_broker.launcher import find_server, server_command
from telepatch_broker.people import People

MODELS = Path(__file__).parents[2] / "models"
MODEL = "gpt2-random"
LEASE_SECONDS = 2.0
READY_SECONDS = 150.0


def until(what: Callable[[], Any], seconds: float = 60.0, pause: float = 0.02) -> Any:
    """Wait until something is so, and give it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"not so after {seconds:g} s"
        time.sleep(pause)
    return found


@dataclass
class Part:
    """One process, and how it is started.

    Attributes:
        file_bytes: how large a file it may write; as on a disk that is full, what is over that is refused.
    """

    name: str
    command: list[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    file_bytes: int | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, as often as wanted."""
        assert self.process is None or self.process.poll() is not None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**_environment(), **self.environment},
                preexec_fn=self._limit,
            )

    def _limit(self) -> None:
        if self.file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_bytes, resource.RLIM_INFINITY))

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """As `kill -9` does, or a machine that is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Hang, from one moment to the next."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """In order, if it still runs."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def said(self) -> str:
        return self.log.read_text(errors="replace")


def _environment() -> dict[str, str]:
    """This one's, without settings of the machine that the tests run on."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TELEPATCH_")}
    return kept | {"OMP_NUM_THREADS": "1"}


class Stack:
    """Queue, gateways and workers in a folder of their own.

    Args:
        home: the folder.
        people: who have keys; nobody needs one without.
        settings: variables of the environment for all parts.
    """

    def __init__(self, home: Path, people: tuple[str, ...] = (), settings: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.settings = dict(settings or {})
        self.people = people
        self.keys: dict[str, str] = {}
        socket_path = home / "valkey.sock"
        self.redis_url = f"unix://{socket_path}"
        (home / "valkey").mkdir()
        log = home / "valkey" / "valkey.log"
        command = server_command(find_server(), home / "valkey", socket_path, log, "everysec")
        self.queue = Part("queue", command, home / "queue.log")
        self.gateways: list[Part] = []
        self.workers: list[Part] = []
        self.urls: list[str] = []

    def start_queue(self) -> None:
        """Start the queue, and wait until it answers."""
        self.queue.start()
        until(self._answers, 60)
        for name in self.people:
            if name not in self.keys:
                self.keys[name] = asyncio.run(self._new_key(name))

    async def _new_key(self, person: str) -> str:
        async with connect(self.redis_url) as client:
            return (await People(client).add(person)).key

    def _answers(self) -> bool:
        try:
            return bool(self.redis().ping())
        except redis.RedisError:
            return False

    def redis(self) -> redis.Redis:
        """What an operator has: a connection of one's own."""
        return redis.Redis.from_url(self.redis_url)

    def gateway(self, *, file_bytes: int | None = None, **settings: str) -> Part:
        """One more gateway, on a port that stays its own."""
        port = _free_port()
        command = [sys.executable, "-P", "-m", "telepatch", "gateway", "--port", str(port), *self._shared()]
        name = f"gateway-{len(self.gateways)}"
        part = Part(name, command, self.home / f"{name}.log", {**self.settings, **settings}, file_bytes)
        self.gateways.append(part)
        self.urls.append(f"http://127.0.0.1:{port}")
        part.start()
        return part

    def worker(self, model: str = MODEL, *, file_bytes: int | None = None, start: bool = True, **settings: str) -> Part:
        """One more worker."""
        command = [sys.executable, "-P", "-m", "telepatch", "worker", "--model", model, *self._shared()]
        own = {
            "TELEPATCH_WORKER_THREADS": "1",
            "TELEPATCH_WORKER_LEASE_SECONDS": str(LEASE_SECONDS),
            "TELEPATCH_CACHE": str(self.home / "cache"),
            "TELEPATCH_MODELS": str(MODELS),
        }
        name = f"worker-{len(self.workers)}"
        part = Part(name, command, self.home / f"{name}.log", {**own, **self.settings, **settings}, file_bytes)
        self.workers.append(part)
        if start:
            part.start()
        return part

    def _shared(self) -> list[str]:
        return ["--redis-url", self.redis_url, "--blobs", str(self.home / "blobs")]

    @property
    def url(self) -> str:
        return self.urls[0]

    def parts(self) -> list[Part]:
        return [*self.workers, *self.gateways, self.queue]

    def wait_for_gateway(self, at: int = 0) -> None:
        until(lambda: _status(self.urls[at] + "/healthz") == 200, 90)

    def ready(self, workers: int | None = None) -> None:
        """Wait until all answer, and so many workers serve."""
        count = len(self.workers) if workers is None else workers
        for at in range(len(self.gateways)):
            self.wait_for_gateway(at)
        until(lambda: len(self.serving()) >= count, READY_SECONDS, 0.1)

    def serving(self) -> list[str]:
        """Workers that say that they are alive."""
        with suppress(redis.RedisError), self.redis() as client:
            return sorted(key.decode() for key in client.scan_iter("telepatch:worker:*", count=10_000))
        return []

    def close(self) -> None:
        for part in self.parts():
            part.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@contextmanager
def stack(people: tuple[str, ...] = (), settings: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """A service with its queue and nothing else so far; nothing of it outlives the block."""
    # Not below pytest's folder: the path of a unix socket is short.
    home = Path(tempfile.mkdtemp(prefix="tpf-"))
    made = Stack(home, people, settings)
    try:
        made.start_queue()
        yield made
    finally:
        made.close()
        shutil.rmtree(home, ignore_errors=True)
