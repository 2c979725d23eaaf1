"""Events: one stream per person, nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from telepatch_broker import events, keys
from telepatch_broker.events import START, EventHub, EventLog
from telepatch_broker.jobs import NewJob, Source
from telepatch_broker.lane import Lane
from telepatch_protocol.errors import BadArgument, ErrorRecord
from telepatch_protocol.jobs import Event, SavedMeta, new_job_id


def new(person: str = "ada", **more: Any) -> NewJob:
    return NewJob(new_job_id(), person, "gpt2", b"{}", **more)


@pytest.fixture
def log(client: redis.asyncio.Redis) -> EventLog:
    return EventLog(client)


@pytest.fixture
async def hub(client: redis.asyncio.Redis) -> AsyncIterator[EventHub]:
    async with EventHub(client) as hub:
        yield hub


async def some(stream: AsyncIterator[Event], number: int) -> list[Event]:
    return [await asyncio.wait_for(anext(stream), 5) for _ in range(number)]


async def test_every_change_of_a_job_is_an_event_of_its_owner(lane: Lane, log: EventLog) -> None:
    job = new()
    child = new(parents={job.id: Source()})
    await lane.submit([job, child])
    await lane.take("gpt2", "w1")
    await lane.note(job.id, "w1", "progress", {"done": 1, "of": 2})
    await lane.complete(job.id, "w1", saves={"h": SavedMeta(shape=(2,), dtype="int64")}, result=b"12345")
    await lane.take("gpt2", "w1")
    await lane.fail(child.id, "w1", ErrorRecord(code="execution_error", detail='b"oom\n', line=3))
    found = await log.read("ada", START)
    assert [(event.type, event.job) for event in found] == [
        ("queued", job.id), ("waiting", child.id), ("running", job.id), ("progress", job.id), ("completed", job.id),
        ("queued", child.id), ("running", child.id), ("failed", child.id),
    ]  # fmt: skip
    assert [event.data for event in found] == [
        {"position": 0}, {}, {"attempt": 1}, {"done": 1, "of": 2},
        {"saves": {"h": {"shape": [2], "dtype": "int64"}}, "bytes": 5},
        {"position": 0}, {"attempt": 1}, {"error": {"code": "execution_error", "detail": 'b"oom\n', "line": 3}},
    ]  # fmt: skip
    assert found == sorted(found, key=lambda event: event.at)


async def test_a_cancelled_job_and_its_children_say_so(lane: Lane, log: EventLog) -> None:
    job = new()
    await lane.submit([job])
    await lane.cancel("ada", job.id)
    assert [event.type for event in await log.read("ada", START)] == ["queued", "cancelled"]


async def test_reading_goes_on_from_any_place(log: EventLog) -> None:
    for number in range(5):
        await log.append("ada", "log", "j", {"number": number})
    first = await log.read("ada", START, count=2)
    rest = await log.read("ada", first[-1].id)
    assert [event.data["number"] for event in first + rest] == [0, 1, 2, 3, 4]
    assert await log.last("ada") == rest[-1].id
    assert await log.last("bob") == START


@pytest.mark.parametrize("place", ["", "yesterday", "1", "1-2-3", "$", "-"])
async def test_what_is_no_place_in_a_stream_is_refused(log: EventLog, hub: EventHub, place: str) -> None:
    with pytest.raises(BadArgument):
        await log.read("ada", place)
    with pytest.raises(BadArgument):
        async with hub.listen("ada", place):
            pass


async def test_a_reader_is_told_when_events_are_no_longer_kept(
    log: EventLog, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEPT", 100)
    places = [await log.append("ada", "log", "j", {}) for _ in range(350)]
    assert await client.xlen(keys.events_of("ada")) < 250
    assert await log.missed("ada", places[0])
    assert await log.missed("ada", START)
    assert not await log.missed("ada", places[-50])
    assert not await log.missed("bob", START)


async def test_a_listener_hears_what_happens_from_now_on(log: EventLog, hub: EventHub) -> None:
    await log.append("ada", "log", "before", {})
    async with hub.listen("ada") as stream:
        await log.append("bob", "log", "other", {})
        await log.append("ada", "log", "after", {})
        assert [event.job for event in await some(stream, 1)] == ["after"]


async def test_a_listener_who_comes_back_misses_nothing_and_hears_nothing_twice(log: EventLog, hub: EventHub) -> None:
    async def speak() -> None:
        for number in range(300):
            await log.append("ada", "log", str(number), {})

    speaker = asyncio.create_task(speak())
    heard: list[str] = []
    place = START
    while len(heard) < 300:
        async with hub.listen("ada", place) as stream:
            for event in await some(stream, 20):
                heard.append(event.job)
                place = event.id
    await speaker
    assert heard == [str(number) for number in range(300)]


async def test_many_listeners_of_many_people_share_one_connection(
    log: EventLog, hub: EventHub, client: redis.asyncio.Redis
) -> None:
    async def first(person: str) -> str:
        async with hub.listen(person) as stream:
            ready.release()
            return (await some(stream, 1))[0].job

    async def subscribers() -> int:
        [(_, number)] = await client.pubsub_numsub(keys.DOORBELL)
        return int(number)

    async with hub.listen("somebody"):
        before = await subscribers()  # one of this hub, and those of gateways that other tests have left running
    ready = asyncio.Semaphore(0)
    people = [f"person-{number % 50}" for number in range(100)]
    listeners = [asyncio.create_task(first(person)) for person in people]
    for _ in people:
        await ready.acquire()
    assert 1 <= await subscribers() <= before
    for person in set(people):
        await log.append(person, "log", person, {})
    assert await asyncio.gather(*listeners) == people
    assert hub._knocks == {}


async def test_nothing_is_missed_while_the_connection_is_broken(
    log: EventLog, hub: EventHub, client: redis.asyncio.Redis
) -> None:
    async with hub.listen("ada") as stream:
        for number in range(3):
            await client.client_kill_filter(_type="pubsub")
            await log.append("ada", "log", str(number), {})
            assert [event.job for event in await some(stream, 1)] == [str(number)]


async def test_waiting_for_jobs_ends_when_all_have_ended(lane: Lane, hub: EventHub) -> None:
    jobs = [new() for _ in range(3)]
    await lane.submit(jobs)
    await lane.cancel("ada", jobs[0].id)
    waiter = asyncio.create_task(hub.wait_for("ada", [job.id for job in jobs], 20))
    await asyncio.sleep(0.1)
    for job in await lane.take("gpt2", "w1"):
        assert not waiter.done()
        await lane.complete(job.id, "w1", saves={}, result=b"")
    assert await asyncio.wait_for(waiter, 2) == {job.id for job in jobs}


async def test_waiting_for_jobs_ends_in_time_with_those_that_have_ended(lane: Lane, hub: EventHub) -> None:
    done, queued, theirs = new(), new(), new("bob")
    await lane.submit([done, queued, theirs])
    await lane.cancel("ada", done.id)
    await lane.cancel("bob", theirs.id)
    ids = [done.id, queued.id, theirs.id, new_job_id()]
    assert await hub.wait_for("ada", ids, 0.2) == {done.id}


async def test_a_step_that_moves_many_jobs_knocks_once_and_what_matters_is_heard_at_once(
    lane: Lane, client: redis.asyncio.Redis
) -> None:
    async with client.pubsub() as door:
        await door.subscribe(keys.DOORBELL)
        jobs = [new() for _ in range(5)] + [new("bob")]
        await lane.submit(jobs)
        taken = await lane.take("gpt2", "w1", max_jobs=6)
        await lane.complete(taken[0].id, "w1", saves={}, result=b"")
        knocks = []
        while (found := await door.get_message(timeout=0.2)) is not None:
            knocks += [found["data"].decode()] if found["type"] == "message" else []
    assert sorted(knocks[:2]) == sorted(knocks[2:4]) == ["soon ada", "soon bob"]
    assert knocks[4:] == [taken[0].person]


async def test_that_a_job_has_begun_is_heard_soon_though_nothing_follows(lane: Lane, hub: EventHub) -> None:
    async with hub.listen("ada") as stream:
        await lane.submit([new()])
        await lane.take("gpt2", "w1")
        async with asyncio.timeout(2):
            assert [event.type for event in await some(stream, 2)] == ["queued", "running"]


async def test_what_is_new_comes_in_one_bunch(lane: Lane, hub: EventHub) -> None:
    jobs = [new() for _ in range(3)]
    await lane.submit(jobs)
    async with hub.bunches("ada", START) as bunches, asyncio.timeout(2):
        assert [event.job for event in await anext(bunches)] == [job.id for job in jobs]
