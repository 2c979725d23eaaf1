"""What tests of all rooms share: a real, empty Valkey, and a whole service as a person starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one server for all tests; `redis_url` empties it."""
    from telepatch_broker.launcher import embedded_valkey

    folder: Path = tmp_path_factory.mktemp("valkey")
    with embedded_valkey(folder) as url:
        yield url


@pytest.fixture
def redis_url(valkey_server: str) -> str:
    """The address of an empty Redis."""
    import redis

    with redis.Redis.from_url(valkey_server) as client:
        client.flushall()
    return valkey_server


SERVED = ("gpt2-random", "llama-random", "bert-random", "vit-digits", "mlp-digits")
"""The models of the service that all tests share."""


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one service for all tests, with its own queue and a worker for each of `SERVED`."""
    with serving(tmp_path_factory.mktemp("service"), SERVED) as url:
        yield url


@pytest.fixture(scope="session")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service with the real demo model, which is fetched and converted if it is not in the cache."""
    with serving(tmp_path_factory.mktemp("demo"), ["smollm2-135m"], threads=2) as url:
        yield url


@pytest.fixture(scope="session")
def served() -> Callable[..., AbstractContextManager[str]]:
    """A service of one's own, for tests that need other models: ``with served(home, ["./card.toml"]) as url:``."""
    return serving


@contextmanager
def serving(
    home: Path,
    models: Sequence[str],
    threads: int = 1,
    words: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """A service as a person starts it, in a folder of its own, until the block ends."""
    ready = home / "ready.json"
    wanted = [word for model in models for word in ("--model", model)]
    command = [
        sys.executable,
        "-P",
        "-m",
        "telepatch",
        "up",
        "--port",
        "0",
        "--home",
        str(home),
        "--announce",
        str(ready),
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TELEPATCH_") or "CACHE" in name}
    with (home / "said").open("w") as said:
        process = subprocess.Popen(
            [*command, *wanted, *words],
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**kept, "TELEPATCH_WORKER_THREADS": str(threads), **(settings or {})},
        )
    try:
        yield _when_ready(process, ready, home)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _when_ready(process: subprocess.Popen[bytes], ready: Path, home: Path, seconds: float = 280) -> str:
    deadline = time.monotonic() + seconds
    while not ready.exists():
        assert process.poll() is None, (home / "said").read_text()
        assert time.monotonic() < deadline, (home / "said").read_text()
        time.sleep(0.1)
    return str(json.loads(ready.read_text())["url"])
