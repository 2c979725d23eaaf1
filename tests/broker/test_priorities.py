"""Priorities: which of one's own jobs goes first, and how far it may go ahead of those of others."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio
from tests.broker.test_lane import new

from telepatch_broker import keys
from telepatch_broker.lane import Lane
from telepatch_protocol.jobs import Priority


async def order(lane: Lane, count: int, **more: Any) -> list[str]:
    """Whose job is taken, one at a time."""
    return [job.person for _ in range(count) for job in await lane.take("gpt2", "w1", max_jobs=1, **more)]


async def test_of_ones_own_jobs_those_of_higher_priority_go_first(lane: Lane) -> None:
    jobs = [new(priority=priority) for priority in ("low", "normal", "high", "low", "normal", "high")]
    await lane.submit(jobs)
    taken = [job.id for job in await lane.take("gpt2", "w1")]
    assert taken == [jobs[at].id for at in (2, 5, 1, 4, 0, 3)]


async def test_low_priority_costs_nobody_a_turn_among_people(lane: Lane) -> None:
    await lane.submit([new("ada", priority="low") for _ in range(20)])
    await lane.submit([new("bob") for _ in range(20)])
    assert (await order(lane, 20)).count("ada") == 10


async def test_a_job_of_high_priority_goes_ahead_of_other_people(lane: Lane) -> None:
    await lane.submit([new("ada", cost=1000)])
    assert await order(lane, 1) == ["ada"]
    await lane.submit([new("bob", cost=10) for _ in range(20)])
    await lane.submit([new("ada", cost=10)])
    assert await order(lane, 3) == ["bob"] * 3, "she has had her turn"
    await lane.submit([new("ada", cost=10, priority="high")])
    assert await order(lane, 2) == ["ada", "bob"]


async def test_high_priority_counts_four_times_so_that_it_is_no_way_to_have_more(lane: Lane) -> None:
    await lane.submit([new("ada", cost=100, priority="high") for _ in range(300)])
    await lane.submit([new("bob", cost=100) for _ in range(300)])
    people = await order(lane, 260)
    first = people[:60]
    assert first.count("ada") >= first.count("bob") / 4 + 8, "a head start"
    rest = people[60:]
    assert 35 <= rest.count("ada") <= 45, "and a quarter of what others have from there on"


async def test_the_head_start_goes_with_the_last_job_of_high_priority(lane: Lane, client: redis.asyncio.Redis) -> None:
    await lane.submit([new("ada", cost=10), new("ada", cost=10, priority="high")])
    await lane.submit([new("bob", cost=10)])
    people = keys.of_lane("gpt2", "interactive", "people")
    assert await client.zscore(people, "ada") < 0
    assert await order(lane, 1) == ["ada"]
    assert await client.zscore(people, "ada") == 40
    gone = new("ada", cost=10, priority="high")
    await lane.submit([gone])
    assert await client.zscore(people, "ada") < 0
    await lane.cancel("ada", gone.id)
    assert await client.zscore(people, "ada") == 40


async def test_those_who_come_after_somebody_in_a_hurry_start_where_the_others_are(
    lane: Lane, client: redis.asyncio.Redis
) -> None:
    await lane.submit([new("ada", cost=50) for _ in range(4)])
    await order(lane, 3)
    await lane.submit([new("ada", cost=50, priority="high")])
    await order(lane, 1)
    assert float(await client.get(keys.of_lane("gpt2", "interactive", "clock"))) == 100
    await lane.submit([new("bob", cost=50)])
    assert await client.zscore(keys.of_lane("gpt2", "interactive", "people"), "bob") == 100


@pytest.mark.parametrize("priority", ["low", "normal", "high"])
async def test_a_job_leaves_its_queue_whatever_its_priority(
    lane: Lane, client: redis.asyncio.Redis, priority: Priority
) -> None:
    job = new(priority=priority)
    await lane.submit([job])
    await lane.cancel("ada", job.id)
    assert await lane.take("gpt2", "w1") == []
    assert await client.zcard(keys.of_lane("gpt2", "interactive", "people")) == 0
    assert await client.exists(keys.queue("gpt2", "ada", "interactive", priority)) == 0


async def test_a_job_that_is_given_back_goes_first_among_its_like(lane: Lane) -> None:
    low = [new(priority="low") for _ in range(3)]
    await lane.submit(low)
    await lane.take("gpt2", "w1", max_jobs=1)
    normal = new()
    await lane.submit([normal])
    await lane.give_back("w1", [low[0].id])
    assert [job.id for job in await lane.take("gpt2", "w1")] == [normal.id, *(job.id for job in low)]


async def test_the_place_in_line_counts_ones_own_jobs_of_higher_priority(lane: Lane) -> None:
    low = new(priority="low")
    await lane.submit([low, new(), new(), new(priority="high")])
    status = await lane.status("ada", low.id)
    assert (status.position, status.priority) == (3, "low")


async def test_priority_and_time_limit_travel_with_the_job(lane: Lane) -> None:
    job, plain = new(priority="high", timeout_seconds=1.5), new("bob")
    await lane.submit([job, plain])
    taken = {one.id: one for one in await lane.take("gpt2", "w1")}
    assert (taken[job.id].timeout_seconds, taken[plain.id].timeout_seconds) == (1.5, None)
    status, other = await lane.status("ada", job.id), await lane.status("bob", plain.id)
    assert (status.priority, status.timeout_seconds) == ("high", 1.5)
    assert (other.priority, other.timeout_seconds) == (None, None)


async def test_long_jobs_have_priorities_too(lane: Lane) -> None:
    later, sooner = new(lane="long", priority="low"), new(lane="long")
    await lane.submit([later, sooner])
    found = [job.id for _ in range(2) for job in await lane.take("gpt2", "w1", max_long=1)]
    assert found == [sooner.id, later.id]


async def test_a_worker_that_is_full_of_some_takes_jobs_of_others_only(lane: Lane) -> None:
    await lane.submit([new("ada") for _ in range(5)])
    await lane.submit([new("bob") for _ in range(5)])
    fit = new("ada", lane="long")
    await lane.submit([fit, new("eve", cost=900)])
    taken = await lane.take("gpt2", "w1", max_jobs=16, max_tokens=3, others_than={"ada", "bob"})
    assert [job.person for job in taken] == ["eve", "ada"]
    assert taken[1].id == fit.id, "one that trains is not in the way of theirs"
    assert await lane.take("gpt2", "w1", others_than={"ada", "bob"}) == []
    assert await order(lane, 2, others_than={"ada"}) == ["bob"] * 2
