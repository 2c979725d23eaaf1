"""What people use up is written down in the step that ends a job, and limits hold in the step that takes one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.blobs import DirectoryBlobs, chunks_of
from telepatch_broker.data import Uploads
from telepatch_broker.jobs import NewJob, Source
from telepatch_broker.lane import Lane
from telepatch_broker.limits import Limits
from telepatch_broker.usage import Usage, seconds_to_midnight
from telepatch_protocol.errors import BadArgument, ErrorRecord, StorageFull
from telepatch_protocol.jobs import Accepted, Price, new_job_id

PRICE = Price(rows=1, tokens=1, passes=1, peak_bytes=0, saved_bytes=100, flops=1.0)


@pytest.fixture
def usage(client: redis.asyncio.Redis) -> Usage:
    return Usage(client)


def new(person: str = "ada", **more: object) -> NewJob:
    return NewJob(new_job_id(), person, "m", b"{}", price=PRICE, **more)  # type: ignore[arg-type]


def codes(answers: list[Accepted]) -> list[str]:
    return [answer.state or "" if answer.error is None else answer.error.code for answer in answers]


async def test_an_ended_job_counts_for_its_owner_on_its_day(lane: Lane, usage: Usage) -> None:
    jobs = [new(), new(), new(), new("bob")]
    await lane.submit(jobs)
    await lane.take("m", "w")
    await lane.complete(jobs[0].id, "w", saves={}, result=b"x" * 50, seconds=0.001)
    await lane.fail(jobs[1].id, "w", ErrorRecord(code="execution_error", detail="x"), seconds=0.001)
    assert (await usage.standing("ada")).jobs_queued == 1
    await lane.cancel("ada", jobs[2].id)
    [day] = await usage.days(["ada", "carl"], 30)
    assert (day.person, day.day, day.jobs, day.bytes) == ("ada", datetime.now(UTC).date(), 3, 50)
    standing = await usage.standing("ada")
    assert (standing.jobs_queued, standing.results, standing.promised) == (0, 50, 0)
    assert standing.today.seconds == day.seconds
    assert (await usage.standing("bob")).today.jobs == 0
    # The answer to the first try was lost: the same again counts once.
    await lane.complete(jobs[0].id, "w", saves={}, result=b"x" * 50, seconds=0.001)
    assert (await usage.standing("ada")).results == 50


async def test_accounts_are_kept_for_400_days(lane: Lane, usage: Usage, client: redis.asyncio.Redis) -> None:
    job = new()
    await lane.submit([job])
    await lane.take("m", "w")
    await lane.complete(job.id, "w", saves={}, result=b"")
    [key] = [key async for key in client.scan_iter("*usage*")]
    assert 399 * 86400 < await client.ttl(key) <= 400 * 86400
    assert len(await usage.days(["ada"], 400)) == 1
    with pytest.raises(BadArgument, match="401 days"):
        await usage.days(["ada"], 401)


async def test_jobs_that_share_a_worker_share_its_time(lane: Lane, usage: Usage) -> None:
    jobs = [new(f"p{at}") for at in range(4)]
    await lane.submit(jobs)
    begun = time.monotonic()
    taken = await lane.take("m", "w")
    assert len(taken) == 4
    await asyncio.sleep(0.4)
    for job in jobs:
        await lane.complete(job.id, "w", saves={}, result=b"", seconds=9.0)
    passed = time.monotonic() - begun
    seconds = [(await usage.standing(job.person)).today.seconds for job in jobs]
    assert 0.38 <= sum(seconds) <= passed + 0.01  # 36 by what each is told to have run
    assert max(seconds) < 0.5 * sum(seconds)


async def test_a_job_that_ran_alone_counts_for_no_more_than_it_ran(lane: Lane, usage: Usage) -> None:
    job = new()
    await lane.submit([job])
    await lane.take("m", "w")
    await asyncio.sleep(0.3)  # taken ahead, while the worker did something else
    await lane.complete(job.id, "w", saves={}, result=b"", seconds=0.05)
    assert (await usage.standing("ada")).today.seconds == pytest.approx(0.05)


async def test_a_job_that_is_cancelled_while_it_runs_counts_until_then(lane: Lane, usage: Usage) -> None:
    for kind in ("interactive", "long"):
        before = (await usage.standing("ada")).today.seconds
        job = new(lane=kind)
        await lane.submit([job])
        await lane.take("m", "w")
        await asyncio.sleep(0.3)
        await lane.cancel("ada", job.id)
        assert 0.28 <= (await usage.standing("ada")).today.seconds - before < 10
    waiting = new("bob")
    await lane.submit([waiting])
    await lane.cancel("bob", waiting.id)
    assert await usage.days(["bob"], 1) == []
    assert (await usage.standing("bob")).jobs_queued == 0


async def test_a_long_job_counts_at_each_checkpoint_and_at_its_end_for_the_rest(lane: Lane, usage: Usage) -> None:
    job = new(lane="long")
    await lane.submit([job])
    await lane.take("m", "w")
    for told, counted in ((10.0, 10.0), (25.0, 25.0)):
        await lane.checkpoint(job.id, "w", b"state", seconds=told)
        assert (await usage.standing("ada")).today.seconds == counted
    await lane.give_back("w", [job.id])
    await lane.take("m", "v")
    assert (await usage.standing("ada")).today.jobs == 0
    await lane.complete(job.id, "v", saves={}, result=b"", seconds=27.5)
    standing = await usage.standing("ada")
    assert (standing.today.seconds, standing.today.jobs) == (27.5, 1)


async def test_the_clock_of_a_worker_is_gone_with_its_last_job(lane: Lane, client: redis.asyncio.Redis) -> None:
    jobs = [new() for _ in range(3)]
    await lane.submit(jobs)
    await lane.take("m", "w", lease_seconds=0.01)
    await lane.complete(jobs[0].id, "w", saves={}, result=b"")
    assert (await client.get(keys.clock("w")) or b"").startswith(b"2 ")
    await asyncio.sleep(0.1)
    await lane.reclaim("m")
    assert not await client.exists(keys.clock("w"))


async def test_nobody_has_more_unended_jobs_than_they_may_however_they_are_sent(lane: Lane, usage: Usage) -> None:
    limits = Limits(jobs_queued=3)
    first = [new(), new()]
    assert codes(await lane.submit(first, limits)) == ["queued", "queued"]
    third, fourth = new(), new()
    answers = await lane.submit([third, fourth], limits)
    assert codes(answers) == ["queued", "too_many_jobs"]
    assert answers[1].error is not None
    assert "ada has 3 unended jobs, and may have 3" in answers[1].error.detail
    assert codes(await lane.submit(first, limits)) == ["queued", "queued"]  # the same jobs are the same jobs
    assert codes(await lane.submit([new("bob")], limits)) == ["queued"]
    await lane.cancel("ada", first[0].id)
    assert codes(await lane.submit([fourth], limits)) == ["queued"]
    many = [[new() for _ in range(30)] for _ in range(8)]
    room = Limits(jobs_queued=50)
    found = await asyncio.gather(*(lane.submit(part, room) for part in many))
    assert sum(codes(part).count("queued") for part in found) == 47
    assert (await usage.standing("ada")).jobs_queued == 50


async def test_what_uses_the_value_of_a_job_without_room_stays_out_for_the_same_reason(lane: Lane) -> None:
    parents = [new() for _ in range(3)]
    children = [new(parents={parent.id: Source()}) for parent in parents]
    assert codes(await lane.submit([*children, *parents], Limits(jobs_queued=4))).count("too_many_jobs") == 2
    # Also where they would have had room themselves, and where they come in different steps.
    large = replace(new(), price=PRICE.model_copy(update={"saved_bytes": 10_000}))
    using = new(parents={large.id: Source()})
    assert codes(await lane.submit([using, large], Limits(bytes_stored=5_000))) == ["storage_full", "storage_full"]
    await asyncio.gather(*(lane.cancel("ada", one.id) for one in parents))
    parent = new()
    filling = [new() for _ in range(250)]
    child = new(parents={parent.id: Source()})
    answers = await lane.submit([*filling, parent, child], Limits(jobs_queued=250))
    assert codes(answers)[-2:] == ["too_many_jobs", "too_many_jobs"]


async def test_results_uploads_and_what_jobs_will_save_take_room_together(
    lane: Lane, usage: Usage, client: redis.asyncio.Redis, blobs: DirectoryBlobs
) -> None:
    limits = Limits(bytes_stored=350)
    jobs = [new() for _ in range(4)]
    answers = await lane.submit(jobs, limits)
    assert codes(answers) == ["queued", "queued", "queued", "storage_full"]
    assert answers[3].error is not None
    assert "ada has 300 of the 350 bytes" in answers[3].error.detail
    assert "would save 100" in answers[3].error.detail
    await lane.take("m", "w")
    await lane.complete(jobs[0].id, "w", saves={}, result=b"x" * 20)  # less than it was priced at
    assert (await usage.standing("ada")).bytes_stored == 220
    assert codes(await lane.submit([jobs[3]], limits)) == ["queued"]
    with pytest.raises(StorageFull, match="take 320 of the 350"):
        await Uploads(client, blobs).receive("ada", "a" * 64, 40, 0, chunks_of(b""), most=350)
    await Uploads(client, blobs).receive("ada", "a" * 64, 30, 0, chunks_of(b""), most=350)
    for job in jobs[1:]:
        await lane.cancel("ada", job.id)
    await lane.delete_result("ada", jobs[0].id)
    await lane.expire_results()
    standing = await usage.standing("ada")
    assert (standing.uploads, standing.results, standing.promised) == (30, 0, 0)


async def test_who_has_used_up_the_seconds_of_a_day_sends_no_more_jobs(lane: Lane) -> None:
    limits = Limits(seconds_per_day=20)
    job = new(lane="long")
    await lane.submit([job], limits)
    await lane.take("m", "w")
    await lane.checkpoint(job.id, "w", b"state", seconds=20.0)
    [refused] = await lane.submit([new()], limits)
    assert refused.error is not None
    assert refused.error.code == "compute_spent"
    assert "ada has used 20.0 of the 20 seconds" in refused.error.detail
    assert await lane.complete(job.id, "w", saves={}, result=b"", seconds=21.0)  # what was taken goes on


async def test_jobs_from_before_there_were_accounts_end_as_ever(
    lane: Lane, usage: Usage, client: redis.asyncio.Redis
) -> None:
    job = new()
    await lane.submit([job])
    await lane.take("m", "w")
    await client.hdel(keys.job(job.id), "promised", "since")
    await client.delete(keys.UNENDED, keys.PROMISED, keys.clock("w"))
    assert await lane.complete(job.id, "w", saves={}, result=b"", seconds=2.0)
    standing = await usage.standing("ada")
    assert (standing.jobs_queued, standing.promised, standing.today.seconds) == (0, 0, 2.0)


async def test_a_job_that_fails_with_its_parent_takes_no_room(lane: Lane, usage: Usage) -> None:
    parent = new()
    await lane.submit([parent])
    waiting = new(parents={parent.id: Source()})
    await lane.submit([waiting])
    await lane.take("m", "w")
    await lane.fail(parent.id, "w", ErrorRecord(code="execution_error", detail="x"))
    [late] = await lane.submit([new(parents={parent.id: Source()})])
    assert late.state == "failed"
    standing = await usage.standing("ada")
    assert (standing.jobs_queued, standing.promised, standing.today.jobs) == (0, 0, 1)


def test_a_new_day_begins_at_midnight_utc() -> None:
    assert seconds_to_midnight(datetime(2026, 5, 1, 23, 59, 30, tzinfo=UTC).timestamp()) == 30
