"""What tests of all rooms share: a real, empty Valkey."""

from __future__ import annotations

from collections.abc import Iterator
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
