"""Reading what became of jobs: of one's own, and of nobody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_protocol.errors import (
    BadArgument,
    Conflict,
    ErrorRecord,
    NotFound,
)
from telepatch_protocol.jobs import SavedMeta, new_job_id

SAVES = {"h": SavedMeta(shape=(1, 4), dtype="float32")}
BOOM = ErrorRecord(code="execution_error", detail="boom", node="n3", file="study.py", line=7)


def new(person: str = "ada", model: str = "gpt2", **more: Any) -> NewJob:
    return NewJob(more.pop("id", None) or new_job_id(), person, model, more.pop("document", b"{}"), **more)


async def run_one(lane: Lane, result: bytes = b"data", worker: str = "w1") -> str:
    [job] = await lane.take("gpt2", worker, max_jobs=1)
    assert await lane.complete(job.id, worker, saves=SAVES, result=result)
    return job.id


async def test_nobody_sees_or_touches_the_jobs_of_others(lane: Lane) -> None:
    job = new("ada")
    await lane.submit([job])
    await run_one(lane)
    for call in (lane.status, lane.cancel, lane.result, lane.delete_result):
        with pytest.raises(NotFound, match=job.id):
            await call("bob", job.id)
    assert await lane.states("bob", [job.id]) == {}
    assert isinstance((await lane.results("bob", [job.id]))[job.id], NotFound)
    assert (await lane.list_jobs("bob")).jobs == ()
    assert await lane.states("ada", [job.id]) == {job.id: "completed"}


async def test_a_result_before_its_time_says_what_the_job_is_doing(lane: Lane) -> None:
    job = new()
    await lane.submit([job])
    with pytest.raises(Conflict, match="queued"):
        await lane.result("ada", job.id)
    with pytest.raises(Conflict, match="cancel"):
        await lane.delete_result("ada", job.id)


async def test_large_results_and_attachments_go_through_the_blob_store(lane: Lane, blobs: DirectoryBlobs) -> None:
    large = bytes(300_000)
    jobs = [new(attachment=large), new(attachment=large)]
    await lane.submit(jobs)
    assert len([name async for name in blobs.list()]) == 1
    one, two = await lane.take("gpt2", "w1")
    assert one.attachment is None
    assert await lane.attachment(one) == await lane.attachment(two) == large
    await lane.complete(one.id, "w1", saves=SAVES, result=large + b"!")
    result = await lane.result("ada", one.id)
    assert (result.inline, result.size) == (None, 300_001)
    assert b"".join([part async for part in lane.read(result)]) == large + b"!"
    assert b"".join([part async for part in lane.read(result, 299_999)]) == b"\x00!"


async def test_a_result_can_come_from_a_file(lane: Lane, tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"small")
    large.write_bytes(bytes(300_000))
    for path in (small, large):
        job = new()
        await lane.submit([job])
        await lane.take("gpt2", "w1")
        await lane.complete(job.id, "w1", saves={}, result=path)
        result = await lane.result("ada", job.id)
        assert b"".join([part async for part in lane.read(result)]) == path.read_bytes()


async def test_many_results_come_at_once_each_with_its_own_end(lane: Lane) -> None:
    _, failed, _ = jobs = [new(), new(), new()]
    await lane.submit(jobs)
    await run_one(lane)
    await lane.take("gpt2", "w1", max_jobs=1)
    await lane.fail(failed.id, "w1", BOOM)
    stranger = new_job_id()
    answers = await lane.results("ada", [*(job.id for job in jobs), stranger])
    kinds = {id: type(answer).__name__ for id, answer in answers.items()}
    assert list(kinds.values()) == ["Result", "ExecutionError", "Conflict", "NotFound"]


async def test_jobs_are_listed_newest_first_in_pages(lane: Lane) -> None:
    jobs = [new() for _ in range(7)]
    await lane.submit(jobs)
    await lane.submit([new("bob")])
    first = await lane.list_jobs("ada", limit=4)
    second = await lane.list_jobs("ada", limit=4, cursor=first.cursor)
    assert [job.id for job in first.jobs + second.jobs] == sorted((job.id for job in jobs), reverse=True)
    assert second.cursor is None


async def test_jobs_can_be_listed_by_state(lane: Lane) -> None:
    jobs = [new() for _ in range(5)]
    await lane.submit(jobs)
    done = [await run_one(lane) for _ in range(2)]
    page = await lane.list_jobs("ada", state="completed", limit=1)
    rest = await lane.list_jobs("ada", state="completed", cursor=page.cursor)
    assert [job.id for job in page.jobs + rest.jobs] == sorted(done, reverse=True)
    with pytest.raises(BadArgument):
        await lane.list_jobs("ada", limit=0)


async def test_a_queued_job_knows_its_position(lane: Lane) -> None:
    jobs = [new() for _ in range(3)]
    await lane.submit(jobs)
    assert [(await lane.status("ada", job.id)).position for job in jobs] == [0, 1, 2]
    stranger = new("bob")
    await lane.submit([stranger])
    assert (await lane.status("bob", stranger.id)).position in (0, 1)
    assert (await lane.status("ada", jobs[2].id)).position == 3
