"""The long lane, on a real Valkey: slices, whose turn it is after one, and what a job has when it goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio
from tests.broker.test_lane import new, put, state

from telepatch_broker import keys
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane


def long(person: str = "ada", **more: Any) -> NewJob:
    return new(person, lane="long", **more)


async def take(lane: Lane, worker: str = "w1", **more: Any) -> list[str]:
    return [job.id for job in await lane.take("gpt2", worker, **more)]


async def slice_over(lane: Lane, job: NewJob, worker: str = "w1") -> bool:
    return await lane.slice_over(job.id, worker)


async def test_a_long_job_stands_in_nobody_s_way(lane: Lane) -> None:
    jobs = [long(), new("bob"), new("bob"), new()]
    await lane.submit(jobs)
    assert (await lane.status("ada", jobs[0].id)).position == 0
    taken = await lane.take("gpt2", "w1")
    assert {job.id for job in taken} == {job.id for job in jobs}
    assert [job.id for job in taken if job.lane == "long"] == [jobs[0].id]


async def test_a_worker_takes_as_many_long_jobs_as_it_asks_for(lane: Lane) -> None:
    jobs = [long(), long("bob"), new()]
    await lane.submit(jobs)
    assert await take(lane, max_long=0) == [jobs[2].id]
    assert await take(lane) == [jobs[0].id]
    assert await take(lane, max_long=2) == [jobs[1].id]


async def test_a_sleeping_worker_wakes_for_a_long_job(lane: Lane) -> None:
    sleeper = asyncio.create_task(take(lane, wait_seconds=20))
    await asyncio.sleep(0.1)
    job = long()
    await lane.submit([job])
    assert await asyncio.wait_for(sleeper, 2) == [job.id]


async def test_after_a_slice_it_goes_on_where_nobody_else_waits(lane: Lane) -> None:
    first, second = long(), long()
    await lane.submit([first, second])
    assert await take(lane) == [first.id]
    assert not await slice_over(lane, first)
    await lane.submit([long("bob")])
    assert await slice_over(lane, first)
    assert await slice_over(lane, second), "it is not this worker's"
    assert await state(lane, first) == "running"


async def test_people_take_turns_and_each_goes_on_with_the_job_it_has_begun(lane: Lane) -> None:
    first, second, other = long(), long(), long("bob")
    await lane.submit([first, second, other])
    seen = []
    for _ in range(4):
        [id] = await take(lane)
        seen.append(id)
        job = next(one for one in (first, second, other) if one.id == id)
        assert await slice_over(lane, job)
        await lane.checkpoint(id, "w1", b"so far", seconds=1.5)
        await lane.give_back("w1", [id])
    assert seen == [first.id, other.id, first.id, other.id]
    [taken] = await lane.take("gpt2", "w2")
    assert (taken.id, taken.attempt, taken.spent) == (first.id, 1, 1.5)
    assert await lane.last_checkpoint(taken) == b"so far"


async def test_slices_that_nobody_else_wanted_count(lane: Lane) -> None:
    alone = long()
    await lane.submit([alone])
    await take(lane)
    for _ in range(3):
        assert not await slice_over(lane, alone)
    await lane.submit([long("bob") for _ in range(5)])
    await lane.give_back("w1", [alone.id])
    people = [(await lane.take("gpt2", f"w{at}"))[0].person for at in range(5)]
    assert people == ["bob", "bob", "bob", "bob", "ada"]


async def test_a_job_that_goes_on_keeps_the_time_of_its_first_start(lane: Lane) -> None:
    begun, fresh = long(), long("bob")
    await lane.submit([begun, fresh])
    await take(lane, max_long=2)
    await lane.checkpoint(begun.id, "w1", b"so far")
    started = (await lane.status("ada", begun.id)).timings.started
    await lane.give_back("w1", [begun.id, fresh.id])
    assert (await lane.status("bob", fresh.id)).timings.started is None
    await asyncio.sleep(0.01)
    await take(lane, max_long=2)
    assert (await lane.status("ada", begun.id)).timings.started == started
    assert (await lane.status("bob", fresh.id)).timings.started > started


async def test_a_lost_worker_s_long_job_waits_on_its_own_lane(lane: Lane) -> None:
    job = long()
    await lane.submit([job])
    await take(lane, "dead", lease_seconds=0.01)
    await asyncio.sleep(0.05)
    assert await lane.reclaim("gpt2") == [job.id]
    assert await take(lane, max_long=0) == []
    assert await take(lane) == [job.id]


async def test_a_queued_long_job_can_be_cancelled(lane: Lane, client: redis.asyncio.Redis) -> None:
    job = long()
    assert await put(lane, job) == ["queued"]
    assert await lane.cancel("ada", job.id) == "cancelled"
    assert await take(lane) == []
    assert await client.zcard(keys.of_lane("gpt2", "long", "people")) == 0
