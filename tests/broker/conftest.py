"""An empty queue on a real Valkey, and blobs in a real directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import connect
from telepatch_broker.lane import Lane


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def blobs(tmp_path: Path) -> DirectoryBlobs:
    return DirectoryBlobs(tmp_path / "blobs")


@pytest.fixture
def lane(client: redis.asyncio.Redis, blobs: DirectoryBlobs) -> Lane:
    return Lane(client, blobs)
