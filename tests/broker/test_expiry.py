"""Results go when their time is over, unless somebody waits for them; so do blobs that nobody refers to."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import now_ms
from telepatch_broker.jobs import NewJob, Source
from telepatch_broker.lane import Lane
from telepatch_protocol.errors import Expired, NotFound
from telepatch_protocol.jobs import new_job_id

LARGE = bytes(300_000)
COUNTED = (keys.UNENDED, keys.PROMISED, keys.STORED)


@pytest.fixture
def lane(client: redis.asyncio.Redis, blobs: DirectoryBlobs) -> Lane:
    return Lane(client, blobs, result_seconds=0.02, record_seconds=60.0)


def new(*parents: str, attachment: bytes = b"") -> NewJob:
    return NewJob(
        new_job_id(), "ada", "gpt2", b"{}", attachment=attachment, parents={id: Source(line=3) for id in parents}
    )


async def run(lane: Lane, job: NewJob, result: bytes = b"small") -> None:
    [taken] = await lane.take("gpt2", "w1", max_jobs=1)
    assert taken.id == job.id
    await lane.complete(job.id, "w1", saves={}, result=result)


async def pass_time(client: redis.asyncio.Redis) -> None:
    """Let the time of everything that stands in the garbage, or waits for a child, be over."""
    await asyncio.sleep(0.05)
    for key in (keys.GARBAGE, keys.EXPIRY):
        for member in await client.zrange(key, 0, -1):
            await client.zadd(key, {member: 0})


async def names(blobs: DirectoryBlobs) -> list[str]:
    return [name async for name in blobs.list()]


@pytest.mark.parametrize("result", [b"small", LARGE])
async def test_an_expired_result_says_so_and_the_job_stays_completed(
    lane: Lane, client: redis.asyncio.Redis, blobs: DirectoryBlobs, result: bytes
) -> None:
    job = new()
    await lane.submit([job])
    await run(lane, job, result)
    assert (await lane.result("ada", job.id)).size == len(result)
    await asyncio.sleep(0.05)
    assert await lane.expire_results() == 1
    assert await lane.expire_results() == 0
    with pytest.raises(Expired, match="no longer kept"):
        await lane.result("ada", job.id)
    assert (await lane.status("ada", job.id)).state == "completed"
    await pass_time(client)
    await lane._collect()
    assert await names(blobs) == []


async def test_a_result_that_a_job_waits_for_stays_until_that_job_has_ended(
    lane: Lane, client: redis.asyncio.Redis
) -> None:
    parent = new()
    child, second = new(parent.id), new(parent.id)
    await lane.submit([parent, child, second])
    await run(lane, parent, b"value")
    await pass_time(client)
    assert await lane.expire_results() == 0
    [taken] = await lane.take("gpt2", "w1", max_jobs=1)
    assert await lane.value(taken, parent.id) == b"value"
    await lane.complete(child.id, "w1", saves={}, result=b"")
    await pass_time(client)
    assert await lane.expire_results() == 1
    assert (await lane.result("ada", parent.id)).inline == b"value"
    await lane.cancel("ada", second.id)
    await pass_time(client)
    assert await lane.expire_results() >= 1
    with pytest.raises(Expired):
        await lane.result("ada", parent.id)


async def test_a_job_that_needs_an_expired_result_fails_at_once(lane: Lane) -> None:
    parent = new()
    await lane.submit([parent])
    await run(lane, parent)
    await asyncio.sleep(0.05)
    await lane.expire_results()
    child = new(parent.id)
    [accepted] = await lane.submit([child])
    assert accepted.state == "failed"
    error = (await lane.status("ada", child.id)).error
    assert error is not None
    assert (error.code, error.parent, error.line) == ("dependency_failed", parent.id, 3)
    assert "no longer kept" in error.detail


async def test_records_go_later_than_results(lane: Lane, client: redis.asyncio.Redis) -> None:
    jobs = [new(), new()]
    await lane.submit(jobs)
    await run(lane, jobs[0])
    await lane.cancel("ada", jobs[1].id)
    await pass_time(client)
    await lane.expire_results()
    assert len((await lane.list_jobs("ada")).jobs) == 2
    await pass_time(client)
    await lane.expire_results()
    assert (await lane.list_jobs("ada")).jobs == ()
    with pytest.raises(NotFound):
        await lane.status("ada", jobs[0].id)
    left = {key.decode() async for key in client.scan_iter()}
    of_model = {keys.of_model("gpt2", what) for what in ("counts", "totals", "clock", "served", "wake")}
    today = keys.usage("ada", await now_ms(client) // 86_400_000)
    assert left - {keys.PEOPLE, today} <= {keys.MODELS, keys.events_of("ada"), *of_model, *COUNTED}
    assert [await client.hget(where, "ada") for where in COUNTED] == [b"0", None, b"0"]


async def test_a_job_that_has_ended_keeps_no_payload(lane: Lane, client: redis.asyncio.Redis) -> None:
    jobs = [new(attachment=b"x"), new(attachment=b"x")]
    await lane.submit(jobs)
    await run(lane, jobs[0])
    await lane.cancel("ada", jobs[1].id)
    for job in jobs:
        assert not {b"document", b"tokens", b"attachment"} & set(await client.hkeys(keys.job(job.id)))


async def test_a_shared_attachment_goes_with_the_last_job_that_needs_it(
    lane: Lane, client: redis.asyncio.Redis, blobs: DirectoryBlobs
) -> None:
    one, two = jobs = [new(attachment=LARGE), new(attachment=LARGE)]
    await lane.submit(jobs)
    await run(lane, one)
    await pass_time(client)
    await lane.expire_results()
    assert len(await names(blobs)) == 1
    await lane.cancel("ada", two.id)
    await pass_time(client)
    await lane.expire_results()
    assert await names(blobs) == []


async def test_the_same_job_again_leaves_no_attachment_behind(lane: Lane, blobs: DirectoryBlobs) -> None:
    job = new(attachment=LARGE)
    await lane.submit([job])
    before = await names(blobs)
    await lane.submit([job])
    assert await names(blobs) == before
    [taken] = await lane.take("gpt2", "w1")
    assert await lane.attachment(taken) == LARGE


async def test_the_large_result_of_a_worker_that_came_too_late_goes(
    lane: Lane, client: redis.asyncio.Redis, blobs: DirectoryBlobs
) -> None:
    job = new()
    await lane.submit([job])
    await lane.take("gpt2", "w1")
    await lane.cancel("ada", job.id)
    assert not await lane.complete(job.id, "w1", saves={}, result=LARGE)
    assert len(await names(blobs)) == 1
    await pass_time(client)
    await lane.expire_results()
    assert await names(blobs) == []


async def test_a_large_result_that_is_kept_is_not_garbage(
    lane: Lane, client: redis.asyncio.Redis, blobs: DirectoryBlobs
) -> None:
    job = new()
    await lane.submit([job])
    await run(lane, job, LARGE)
    assert await client.zcard(keys.GARBAGE) == 0
    assert len(await names(blobs)) == 1
