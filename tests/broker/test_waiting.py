"""Jobs that use values of other jobs wait for them, and fail with them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from telepatch_broker.jobs import NewJob, Source
from telepatch_broker.lane import Lane
from telepatch_protocol.errors import (
    CausalLoop,
    ErrorRecord,
    ExecutionError,
    Expired,
    NotFound,
)
from telepatch_protocol.jobs import SavedMeta, new_job_id

SAVES = {"h": SavedMeta(shape=(1, 4), dtype="float32")}
BOOM = ErrorRecord(code="execution_error", detail="boom", node="n3", file="study.py", line=7)


def new(person: str = "ada", model: str = "gpt2", **more: Any) -> NewJob:
    return NewJob(more.pop("id", None) or new_job_id(), person, model, more.pop("document", b"{}"), **more)


def child_of(*parents: NewJob, **more: Any) -> NewJob:
    return new(parents={parent.id: Source("n1", "study.py", 12) for parent in parents}, **more)


async def put(lane: Lane, *jobs: NewJob) -> list[str | None]:
    return [accepted.state for accepted in await lane.submit(jobs)]


async def run_one(lane: Lane, result: bytes = b"data", worker: str = "w1") -> str:
    [job] = await lane.take("gpt2", worker, max_jobs=1)
    assert await lane.complete(job.id, worker, saves=SAVES, result=result)
    return job.id


async def state(lane: Lane, job: NewJob) -> str:
    return (await lane.status(job.person, job.id)).state


async def test_a_child_waits_for_all_of_its_parents(lane: Lane) -> None:
    one, two = new(), new()
    child = child_of(one, two)
    assert await put(lane, child, one, two) == ["waiting", "queued", "queued"]
    assert await run_one(lane, b"first") == one.id
    assert await state(lane, child) == "waiting"
    assert await run_one(lane, b"second", worker="w2") == two.id
    assert await state(lane, child) == "queued"
    [taken] = await lane.take("gpt2", "w2")
    assert taken.parents == {parent.id: Source("n1", "study.py", 12) for parent in (one, two)}
    assert [await lane.value(taken, parent.id) for parent in (one, two)] == [b"first", b"second"]
    with pytest.raises(NotFound):
        await lane.value(taken, child.id)


async def test_a_child_of_a_completed_job_does_not_wait(lane: Lane) -> None:
    parent = new()
    await lane.submit([parent])
    await run_one(lane)
    assert await put(lane, child_of(parent)) == ["queued"]


async def test_a_child_can_wait_for_a_job_of_another_model(lane: Lane) -> None:
    parent, child = new(model="llama"), new()
    child = child_of(parent)
    await lane.submit([child, parent])
    sleeper = asyncio.create_task(lane.take("gpt2", "w1", wait_seconds=10))
    [taken] = await lane.take("llama", "w2")
    await lane.complete(taken.id, "w2", saves={}, result=b"")
    assert [job.id for job in await sleeper] == [child.id]


async def test_a_chain_longer_than_one_step_is_accepted_in_any_order(lane: Lane) -> None:
    chain = [new()]
    for _ in range(450):
        chain.append(child_of(chain[-1]))
    answers = await lane.submit(chain[::-1])
    assert [answer.state for answer in answers] == ["waiting"] * 450 + ["queued"]
    assert [answer.id for answer in answers] == [job.id for job in chain[::-1]]


async def test_jobs_that_wait_for_each_other_are_refused_together(lane: Lane) -> None:
    one, two = new(), new()
    circle = [child_of(two, id=one.id), child_of(one, id=two.id)]
    with pytest.raises(CausalLoop, match=one.id):
        await lane.submit(circle)
    with pytest.raises(CausalLoop):
        await lane.submit([child_of(one, id=one.id)])
    assert await lane.states("ada", [one.id, two.id]) == {}


async def test_an_unknown_parent_keeps_the_job_out_and_names_the_line(lane: Lane) -> None:
    child = child_of(new())
    [refused] = await lane.submit([child])
    assert refused.error is not None
    assert (refused.error.code, refused.error.file, refused.error.line) == ("not_found", "study.py", 12)
    assert refused.error.parent in child.parents
    with pytest.raises(NotFound):
        await lane.status("ada", child.id)


async def test_the_job_of_somebody_else_is_an_unknown_parent(lane: Lane) -> None:
    theirs = new("bob")
    await lane.submit([theirs])
    [refused] = await lane.submit([child_of(theirs)])
    assert refused.error is not None
    assert refused.error.code == "not_found"


async def test_a_failed_parent_fails_its_children_and_theirs(lane: Lane) -> None:
    parent, other = new(), new()
    child = child_of(parent, other)
    grandchild = child_of(child)
    await lane.submit([parent, child, grandchild, other])
    [taken] = await lane.take("gpt2", "w1", max_jobs=1)
    assert await lane.fail(taken.id, "w1", BOOM)
    error = (await lane.status("ada", child.id)).error
    assert error is not None
    assert (error.code, error.parent, error.node, error.file, error.line) == (
        "dependency_failed", parent.id, "n1", "study.py", 12,
    )  # fmt: skip
    assert "boom" in error.detail
    error = (await lane.status("ada", grandchild.id)).error
    assert error is not None
    assert (error.code, error.parent) == ("dependency_failed", child.id)
    assert await run_one(lane) == other.id
    assert await lane.take("gpt2", "w1") == []
    with pytest.raises(ExecutionError, match="boom"):
        await lane.result("ada", parent.id)


async def test_a_child_of_a_job_that_has_failed_fails_at_once(lane: Lane) -> None:
    parent = new()
    await lane.submit([parent])
    await lane.cancel("ada", parent.id)
    child = child_of(parent)
    assert await put(lane, child) == ["failed"]
    error = (await lane.status("ada", child.id)).error
    assert error is not None
    assert (error.code, error.parent, error.line) == ("dependency_failed", parent.id, 12)
    assert await put(lane, child_of(child)) == ["failed"]


async def test_a_thrown_away_result_says_so_but_waiting_jobs_get_it(lane: Lane) -> None:
    parent = new()
    child = child_of(parent)
    await lane.submit([parent, child])
    await run_one(lane, b"value")
    await lane.delete_result("ada", parent.id)
    with pytest.raises(Expired):
        await lane.result("ada", parent.id)
    await lane.expire_results()
    [taken] = await lane.take("gpt2", "w1")
    assert await lane.value(taken, parent.id) == b"value"
    assert await put(lane, child_of(parent)) == ["failed"]
