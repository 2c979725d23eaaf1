"""Jobs that workers died of, on a real Valkey: out of the queue, kept, released, forgotten."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
import redis.asyncio
from tests.broker.test_lane import alive, child_of, new, run_one, state

from telepatch_broker import keys
from telepatch_broker import lane as lanes
from telepatch_broker.blobs import DirectoryBlobs, chunks_of
from telepatch_broker.data import Uploads
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_broker.quarantine import Quarantine
from telepatch_protocol.data_files import encode
from telepatch_protocol.errors import NotFound
from telepatch_protocol.tensors import Tensor


@pytest.fixture
def quarantine(client: redis.asyncio.Redis, blobs: DirectoryBlobs) -> Quarantine:
    return Quarantine(client, blobs)


async def die_of(lane: Lane, job: NewJob, *workers: str) -> None:
    """Have workers die, one after the other, while they have a job."""
    for worker in workers:
        [taken] = await lane.take("gpt2", worker, lease_seconds=0.01, max_jobs=1)
        assert taken.id == job.id
        await asyncio.sleep(0.03)
        assert await lane.reclaim("gpt2") == [job.id]


async def test_a_job_that_two_workers_died_of_fails_and_is_kept(lane: Lane, quarantine: Quarantine) -> None:
    job = new(document=b'{"a": 1}', attachment=b"xyz")
    child = child_of(job)
    await lane.submit([job, child])
    await die_of(lane, job, "w1", "w2")
    status = await lane.status("ada", job.id)
    assert status.state == "failed"
    assert status.error is not None
    assert status.error.code == "worker_lost"
    assert "2 workers died while they had this job; it was put into quarantine" in status.error.detail
    assert await state(lane, child) == "failed"
    assert await lane.take("gpt2", "w3") == []
    [held] = await quarantine.all()
    assert (held.id, held.person, held.model, held.lane, held.attempts) == (job.id, "ada", "gpt2", "interactive", 2)
    assert [(loss.worker, loss.dead) for loss in held.losses] == [("w1", True), ("w2", True)]
    assert held.at >= held.losses[1].at >= held.losses[0].at >= held.submitted
    assert (held.document_bytes, held.attachment) == (8, 3)
    assert await quarantine.document(job.id) == b'{"a": 1}'
    assert await quarantine.get(job.id) == held


async def test_workers_that_live_and_lost_the_job_do_not_put_it_there(
    lane: Lane, quarantine: Quarantine, client: redis.asyncio.Redis
) -> None:
    job = new()
    await lane.submit([job])
    await alive(client, "w1")
    await die_of(lane, job, "w1", "w2")
    assert await state(lane, job) == "queued"
    assert await quarantine.all() == []
    await die_of(lane, job, "w3")
    assert [loss.dead for loss in (await quarantine.get(job.id)).losses] == [False, True, True]


async def test_deaths_count_from_the_last_checkpoint(lane: Lane, quarantine: Quarantine) -> None:
    job = new(lane="long")
    await lane.submit([job])
    for worker in ("w1", "w2", "w3"):
        await lane.take("gpt2", worker, lease_seconds=0.05)
        assert await lane.checkpoint(job.id, worker, b"so far")
        await asyncio.sleep(0.1)
        assert await lane.reclaim("gpt2") == [job.id]
    assert await state(lane, job) == "queued"
    assert await quarantine.all() == []


async def test_it_stays_when_the_record_has_gone_with_its_attachment(
    lane: Lane, blobs: DirectoryBlobs, client: redis.asyncio.Redis, quarantine: Quarantine
) -> None:
    brief = Lane(client, blobs, result_seconds=0.001, record_seconds=0.001)
    job = new(attachment=bytes(300_000))
    await brief.submit([job])
    await die_of(brief, job, "w1", "w2")
    for _ in range(3):
        await asyncio.sleep(0.01)
        await brief.expire_results()
    with pytest.raises(NotFound):
        await lane.status("ada", job.id)
    held = await quarantine.get(job.id)
    assert isinstance(held.attachment, str)
    assert await blobs.size(held.attachment) == 300_000
    assert await client.zscore(keys.GARBAGE, held.attachment) is None
    await quarantine.drop(job.id)
    assert await client.zscore(keys.GARBAGE, held.attachment) is not None


@pytest.mark.parametrize("size", [3, 300_000])
async def test_a_released_job_is_queued_for_its_owner_under_a_new_id(
    lane: Lane, quarantine: Quarantine, size: int
) -> None:
    job = new("bob", document=b"[1]", tokens=b"[2]", attachment=bytes(size), cost=7, group="grad", lane="long")
    await lane.submit([job])
    await die_of(lane, job, "w1", "w2")
    again = await quarantine.release(job.id)
    assert again != job.id
    assert await quarantine.all() == []
    [taken] = await lane.take("gpt2", "w3")
    assert (taken.id, taken.person, taken.document, taken.tokens) == (again, "bob", b"[1]", b"[2]")
    assert (taken.cost, taken.group, taken.lane, taken.attempt, taken.alone) == (7, "grad", "long", 1, True)
    assert await lane.attachment(taken) == bytes(size)
    assert (await lane.status("bob", job.id)).state == "failed"


async def test_a_released_job_still_has_its_parents_and_its_data(
    lane: Lane, blobs: DirectoryBlobs, client: redis.asyncio.Redis, quarantine: Quarantine
) -> None:
    import numpy as np

    file = encode({"x": Tensor.of(np.ones(3, np.float32))})
    digest = hashlib.sha256(file).hexdigest()
    uploads = Uploads(client, blobs)
    await uploads.receive("ada", digest, len(file), 0, chunks_of(file))
    blob = (await uploads.get("ada", digest)).blob
    assert blob is not None
    parent = new()
    await lane.submit([parent])
    await run_one(lane)
    job = child_of(parent, data={digest: blob})
    await lane.submit([job])
    await die_of(lane, job, "w1", "w2")
    assert (await quarantine.get(job.id)).parents == (parent.id,)
    again = await quarantine.release(job.id)
    [taken] = await lane.take("gpt2", "w3")
    assert (taken.id, set(taken.parents), taken.data) == (again, {parent.id}, {digest: blob})
    assert int((await client.hget(keys.USES, blob)) or 0) == 2  # the upload itself, and the job


async def test_what_cannot_run_again_stays_there_and_says_why(
    lane: Lane, blobs: DirectoryBlobs, client: redis.asyncio.Redis, quarantine: Quarantine
) -> None:
    brief = Lane(client, blobs, result_seconds=0.001, record_seconds=0.001)
    parent = new()
    await brief.submit([parent])
    await run_one(brief)
    job = child_of(parent)
    await brief.submit([job])
    await die_of(brief, job, "w1", "w2")
    for _ in range(3):
        await asyncio.sleep(0.01)
        await brief.expire_results()
    with pytest.raises(NotFound, match=parent.id):
        await quarantine.release(job.id)
    assert [held.id for held in await quarantine.all()] == [job.id]


async def test_only_the_newest_are_kept(lane: Lane, quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "QUARANTINED", 2)
    jobs = [new() for _ in range(3)]
    for job in jobs:
        await lane.submit([job])
        await die_of(lane, job, "w1", "w2")
    assert [held.id for held in await quarantine.all()] == [jobs[2].id, jobs[1].id]


async def test_who_is_not_there_is_named(quarantine: Quarantine) -> None:
    missing = new().id
    for ask in (quarantine.get, quarantine.document, quarantine.release, quarantine.drop):
        with pytest.raises(NotFound, match=f"there is no job {missing} in quarantine"):
            await ask(missing)
