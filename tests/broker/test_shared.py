"""Processes that do not share their blobs refuse to start."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.shared import check_shared
from telepatch_protocol.errors import Unavailable


async def test_processes_with_one_directory_find_each_other_in_any_order(
    blobs: DirectoryBlobs, client: redis.asyncio.Redis
) -> None:
    await asyncio.gather(*(check_shared(blobs, client) for _ in range(4)))
    await check_shared(DirectoryBlobs(blobs.directory), client)
    assert len([name async for name in blobs.list()]) == 1


async def test_a_process_with_another_directory_refuses_to_start(
    blobs: DirectoryBlobs, client: redis.asyncio.Redis, tmp_path: Path
) -> None:
    await check_shared(blobs, client)
    other = DirectoryBlobs(tmp_path / "other")
    with pytest.raises(Unavailable, match="same directory"):
        await check_shared(other, client)
    await client.delete(keys.NONCE)
    await check_shared(other, client)


async def test_a_store_that_cannot_be_written_refuses_to_start(client: redis.asyncio.Redis, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="written"):
        await check_shared(DirectoryBlobs(tmp_path / "file" / "blobs"), client)
