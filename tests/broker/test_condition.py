"""How a deployment stands, as those see it who watch it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.condition import Condition
from telepatch_broker.jobs import NewJob, Source
from telepatch_broker.lane import Lane
from telepatch_broker.registry import Registry, WorkerInfo
from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.jobs import new_job_id

MODEL = "gpt2"


@pytest.fixture
def condition(client: redis.asyncio.Redis) -> Condition:
    return Condition(client)


@pytest.fixture
def lane(client: redis.asyncio.Redis, tmp_path: Path) -> Lane:
    return Lane(client, DirectoryBlobs(tmp_path))


def job(person: str = "ada", **more: object) -> NewJob:
    return NewJob(new_job_id(), person, MODEL, b"{}", **more)  # type: ignore[arg-type]


async def test_a_queue_tells_its_people_jobs_and_the_age_of_the_oldest(condition: Condition, lane: Lane):
    await lane.submit([job(), job(), job("bo"), job("bo", lane="long")])
    await asyncio.sleep(0.2)
    await lane.submit([job("cy")])
    interactive, long = await condition.queues(MODEL, named=2)
    assert (interactive.lane, interactive.people, interactive.jobs) == ("interactive", 3, 4)
    assert 0.2 <= interactive.oldest < 60
    assert interactive.longest == (("ada", 2), ("bo", 1))
    assert (long.lane, long.people, long.jobs, long.longest) == ("long", 1, 1, (("bo", 1),))


async def test_many_people_are_looked_at_some_at_a_time(condition: Condition, lane: Lane):
    await lane.submit([job(f"p{number:03}") for number in range(250)] + [job("p120"), job("p220"), job("p220")])
    interactive, _ = await condition.queues(MODEL, named=2)
    assert (interactive.people, interactive.jobs) == (250, 253)
    assert interactive.longest == (("p220", 3), ("p120", 2))


async def test_an_empty_queue_has_no_age_and_people_are_named_only_if_asked_for(condition: Condition, lane: Lane):
    assert [(one.jobs, one.oldest, one.longest) for one in await condition.queues(MODEL)] == [(0, 0.0, ())] * 2
    await lane.submit([job()])
    assert (await condition.queues(MODEL))[0].longest == ()


async def test_attempts_reclaimed_leases_and_failures_are_counted_where_they_happen(condition: Condition, lane: Lane):
    parent, lost = job(), job("bo")
    child = job(parents={parent.id: Source()})
    await lane.submit([parent, child])
    await lane.take(MODEL, "w1", max_jobs=1)
    await lane.fail(parent.id, "w1", ExecutionError("no").record())
    await lane.submit([lost])
    for _ in range(2):
        await lane.take(MODEL, "w1", lease_seconds=0.01)
        await asyncio.sleep(0.05)
        await lane.reclaim(MODEL)
    totals = await condition.totals(MODEL)
    assert (totals.attempts, totals.reclaimed) == (3, 2)
    assert totals.failed == {"dependency_failed": 1, "execution_error": 1, "worker_lost": 1}
    assert (await condition.server()).quarantined == 1


async def test_a_taken_job_says_how_long_it_waited_and_where_it_came_from(lane: Lane):
    await lane.submit([job(origin={"request": "r1"})])
    await asyncio.sleep(0.1)
    [taken] = await lane.take(MODEL, "w1")
    assert taken.waited is not None
    assert 0.1 <= taken.waited < 60
    assert taken.origin == {"request": "r1"}


async def test_numbers_of_a_worker_come_with_its_heartbeat_and_go_with_it(
    condition: Condition, client: redis.asyncio.Redis
):
    registry = Registry(client)
    info = WorkerInfo(id="w1", model=MODEL, host="h", pid=1, device="cpu", started=1.0)
    await registry.heartbeat(info, numbers={"eggs_total": {"": 1}}, seconds=5)
    assert await condition.numbers(["w1", "w2"]) == {"w1": {"eggs_total": {"": 1}}}
    assert 0 < await client.pttl(keys.numbers("w1")) <= 5000
    await registry.leave("w1")
    assert await condition.numbers(["w1"]) == {}


async def test_redis_tells_of_its_memory_and_its_journal(condition: Condition, client: redis.asyncio.Redis):
    await client.set("one", "1")
    server = await condition.server()
    assert server.memory > 100_000
    assert (server.limit, server.keys, server.journal, server.journal_ok) == (0, 1, True, True)
    assert server.clients >= 1
