"""Connections: addresses that can be, and servers that are away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis.asyncio
import redis.exceptions

from telepatch_broker import connection
from telepatch_broker.connection import LOST, check, connect, connect_sync, end, what_is_wrong
from telepatch_protocol.errors import BadArgument, Unavailable


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", ""])
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(BadArgument, match="address"):
        connect(url)
    with pytest.raises(BadArgument, match="address"):
        connect_sync(url)


def test_a_password_is_not_repeated_with_an_address_that_is_refused() -> None:
    with pytest.raises(BadArgument) as refusal:
        connect("redis://user:secret@localhost:port")
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("url", ["redis://localhost:1/0", "rediss://user:secret@localhost:1", "unix:///tmp/none.sock"])
async def test_connecting_does_nothing_before_the_first_call(url: str) -> None:
    await connect(url).aclose()


async def test_a_server_that_does_not_answer_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_RETRIES", 1)
    async with connect(f"unix://{tmp_path}/none.sock") as client:
        with pytest.raises(Unavailable, match="does not answer"):
            await check(client)


async def test_a_server_that_answers_is_fine(client: redis.asyncio.Redis) -> None:
    await check(client)


async def test_a_task_that_misses_a_cancellation_is_ended_all_the_same() -> None:
    missed = 0

    async def deaf() -> None:
        nonlocal missed
        while missed < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                missed += 1
        await asyncio.sleep(60)

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await end(task)
    assert task.cancelled()
    assert missed == 2


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), "is full"),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), "can be read and not written to"),
        (("REPLICAOF", "127.0.0.1", "1"), "can be read and not written to"),
    ],
)
async def test_what_is_wrong_with_a_server_that_refuses_is_said(
    redis_url: str, how: tuple[str, ...], says: str
) -> None:
    async with connect(redis_url) as client:
        await client.execute_command(*how)
        try:
            with pytest.raises(LOST) as plain:
                await client.set("key", "value")
            with pytest.raises(LOST) as scripted:
                await client.eval("return redis.call('SET', 'key', 'value')", 0)
        finally:
            await client.execute_command("REPLICAOF", "NO", "ONE")
            await client.config_set("maxmemory", 0)
            await client.config_set("min-replicas-to-write", 0)
    for found in (plain, scripted):
        assert says in what_is_wrong(found.value)


def test_a_server_that_is_away_and_one_whose_disk_is_full_are_told_apart() -> None:
    away, disk = redis.exceptions.ConnectionError("refused"), redis.exceptions.ResponseError("MISCONF Errors writing")
    assert "cannot be reached" in what_is_wrong(away)
    assert "run-book has 'Redis does not write'" in what_is_wrong(disk)
