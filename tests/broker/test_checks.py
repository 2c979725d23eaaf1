"""What is looked at before a process starts: each thing that is wrong is named, with what would work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.checks import Readiness, at_start, of_places, of_room
from telepatch_broker.connection import connect, connect_sync
from telepatch_broker.launcher import embedded_valkey
from telepatch_protocol.errors import Unavailable
from telepatch_protocol.findings import Finding


@pytest.fixture
def own(tmp_path: Path) -> Iterator[str]:
    """A server of the test's own, which it may spoil."""
    with embedded_valkey(tmp_path / "valkey") as url:
        yield url


async def found(url: str, blobs: DirectoryBlobs) -> dict[str, Finding]:
    client = connect(url)
    client.connection_pool.connection_kwargs["retry"]._retries = 0
    try:
        return {one.what: one async for one in of_places(client, blobs, url)}
    finally:
        await client.aclose()


async def test_what_is_as_it_should_be_is_ok(own: str, blobs: DirectoryBlobs) -> None:
    looked = await found(own, blobs)
    assert {one.level for one in looked.values()} == {"ok"}, looked
    assert len(looked) >= 8


@pytest.mark.parametrize(
    ("spoil", "what", "level", "works"),
    [
        ({"appendonly": "no"}, "queue's journal", "warn", "--appendonly yes"),
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": "1gb"}, "queue keeps everything", "fail", "noeviction"),
        ({"maxmemory-policy": "allkeys-lru"}, "queue keeps everything", "warn", "noeviction"),
        ({"maxmemory": "1"}, "queue takes writes", "fail", "give it memory"),
    ],
)
async def test_what_is_wrong_with_the_server_is_named_with_what_would_work(
    own: str, blobs: DirectoryBlobs, spoil: dict[str, str], what: str, level: str, works: str
) -> None:
    with connect_sync(own) as client:
        client.config_set("maxmemory-policy", spoil.get("maxmemory-policy", "noeviction"))
        for name, value in spoil.items():
            client.config_set(name, value)
        looked = await found(own, blobs)
        client.config_set("maxmemory", "0")
    assert (looked[what].level, works in looked[what].works) == (level, True), looked[what]


async def test_a_replica_is_refused(own: str, blobs: DirectoryBlobs) -> None:
    with connect_sync(own) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        looked = await found(own, blobs)
        client.execute_command("REPLICAOF", "NO", "ONE")
    assert looked["queue is a primary"].level == "fail"


async def test_nothing_more_is_asked_where_nobody_answers(blobs: DirectoryBlobs) -> None:
    looked = await found("redis://127.0.0.1:9/0", blobs)
    assert [(one.what, one.level) for one in looked.values()] == [("queue", "fail")]


async def test_a_start_is_refused_with_the_first_failure_and_warned_of_the_rest(
    own: str, blobs: DirectoryBlobs
) -> None:
    with connect_sync(own) as sync:
        sync.config_set("appendonly", "no")
        sync.set(keys.SCHEMA, "99")
    async with connect(own) as client:
        with pytest.raises(Unavailable, match=r"version of the queue: .*'99'"):
            await at_start(client, blobs, own)
        await client.delete(keys.SCHEMA)
        assert [one.what for one in await at_start(client, blobs, own)] == ["queue's journal"]


async def test_a_queue_that_others_can_reach_should_have_a_password_and_tls(
    client: redis.asyncio.Redis, blobs: Any
) -> None:
    async def levels(url: str) -> set[str]:
        return {one.what async for one in of_places(client, blobs, url) if one.level == "warn"}

    assert await levels("redis://queue.example:6379/0") == {"queue asks for a password", "queue over TLS"}
    assert await levels("rediss://:secret@queue.example:6379/0") == set()
    assert await levels("redis://localhost/0") == set()


def test_a_full_disk_is_told_with_the_bytes_that_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(tmp_path))
    for free, level in ((2**20, "fail"), (2**29, "warn"), (2**40, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda place, free=free: usage(2**40, 2**40 - free, free))
        told = of_room("disk", tmp_path / "not" / "there" / "yet")
        assert (told.level, "GiB free" in told.found) == (level, True)


async def test_readiness_is_looked_at_once_for_many_who_ask(client: redis.asyncio.Redis, blobs: DirectoryBlobs) -> None:
    ready = Readiness(client, blobs, seconds=60)
    assert await ready.trouble() is None
    blobs.directory.rmdir()
    blobs.directory.write_text("no folder")
    assert await ready.trouble() is None
    again = Readiness(client, blobs, seconds=0)
    assert "blob store cannot be written" in str(await again.trouble())
    blobs.directory.unlink()
    assert await again.trouble() is None
