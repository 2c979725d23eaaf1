"""A server over its memory: what is new is refused, and everything that was accepted comes to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import RedisError
from tests.broker.test_lane import SAVES, alive, child_of, new, state

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import is_full, what_is_wrong
from telepatch_broker.housekeeping import Housekeeping, broker_tasks
from telepatch_broker.lane import Lane
from telepatch_broker.registry import Registry
from telepatch_broker.tasks import Tasks
from telepatch_protocol.errors import ErrorRecord


@pytest.fixture
async def fill(client: redis.asyncio.Redis) -> AsyncIterator[Any]:
    """Have the server be full."""

    async def now() -> None:
        await client.config_set("maxmemory", 1)

    yield now
    await client.config_set("maxmemory", 0)


async def test_what_is_new_is_refused_and_nothing_of_it_stays(
    lane: Lane, client: redis.asyncio.Redis, fill: Any
) -> None:
    await fill()
    before = await client.dbsize()
    with pytest.raises(RedisError) as refused:
        await lane.submit([new(), new()])
    assert is_full(refused.value)
    assert "the queue of this service is full" in what_is_wrong(refused.value)
    with pytest.raises(RedisError):
        await lane.submit([new(attachment=bytes(300_000))])
    assert await client.dbsize() == before


async def test_every_step_of_an_accepted_job_is_taken(
    lane: Lane, blobs: DirectoryBlobs, client: redis.asyncio.Redis, fill: Any
) -> None:
    done, failed, back, lost, gone, long, large = [new() for _ in range(5)] + [new(lane="long"), new()]
    waits = child_of(done)
    await lane.submit([done, failed, back, lost, gone, long, large, waits])
    await fill()
    taken = {job.id for job in await lane.take("gpt2", "w1")}
    assert taken == {job.id for job in (done, failed, back, lost, gone, long, large)}
    assert await lane.renew("w1", list(taken)) == set()
    assert await lane.complete(done.id, "w1", saves=SAVES, result=b"data")
    assert await lane.complete(large.id, "w1", saves=SAVES, result=bytes(300_000))
    assert await state(lane, waits) == "queued"
    assert await lane.fail(failed.id, "w1", ErrorRecord(code="execution_error", detail="boom"))
    assert await lane.checkpoint(long.id, "w1", b"so far")
    assert await lane.slice_over(long.id, "w1") is False
    await lane.give_back("w1", [back.id])
    assert await lane.cancel("ada", gone.id) == "cancelled"
    await client.config_set("maxmemory", 0)
    await client.zadd("telepatch:{gpt2}:leases", {lost.id: 1})
    await fill()
    assert await lane.reclaim("gpt2") == [lost.id]
    assert await state(lane, back) == await state(lane, lost) == "queued"
    await lane.delete_result("ada", large.id)
    assert await lane.expire_results() == 1
    assert [found.id for found in await lane.take("gpt2", "w2")][:1] == [lost.id]


async def test_a_worker_does_not_look_dead_meanwhile(client: redis.asyncio.Redis, fill: Any) -> None:
    await alive(client, "w1")
    await client.pexpire("telepatch:worker:w1", 300)
    await fill()
    await alive(client, "w1")
    await asyncio.sleep(0.4)
    assert [worker.id for worker in await Registry(client).workers("gpt2")] == ["w1"]


async def test_housekeeping_makes_room(
    redis_url: str, lane: Lane, blobs: DirectoryBlobs, client: redis.asyncio.Redis, fill: Any
) -> None:
    job = new()
    await lane.submit([job])
    await lane.take("gpt2", "w1")
    await lane.complete(job.id, "w1", saves=SAVES, result=b"data")
    await client.zadd("telepatch:expiry", {job.id: 1})
    await fill()
    house = Housekeeping(redis_url, Tasks(broker_tasks(redis_url, blobs)))
    house.every(0.2, "expire_results")
    with house.run():
        for _ in range(100):
            if await client.hexists(f"telepatch:job:{job.id}", "expired"):
                break
            await asyncio.sleep(0.1)
    assert await client.hexists(f"telepatch:job:{job.id}", "expired")
