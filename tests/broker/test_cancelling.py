"""Cancelling many jobs at once."""

from __future__ import annotations

from tests.broker.test_lane import child_of, new, run_one, state

from telepatch_broker.events import START, EventLog
from telepatch_broker.lane import Lane


async def kinds(log: EventLog, id: str, person: str = "ada") -> list[str]:
    return [event.type for event in await log.read(person, START, count=5000) if event.job == id]


async def test_many_jobs_are_cancelled_in_whatever_state_they_are(lane: Lane) -> None:
    done, running, queued = jobs = [new(), new(), new()]
    waiting = child_of(queued)
    theirs = new("bob")
    await lane.submit([*jobs, waiting, theirs])
    await run_one(lane)
    await lane.take("gpt2", "w1", max_jobs=1, others_than={"bob"})
    ids = [job.id for job in (*jobs, waiting, theirs)]
    found = await lane.cancel_all("ada", ids)
    assert [found.get(id) for id in ids] == ["completed", "cancelled", "cancelled", "cancelled", None]
    assert await state(lane, theirs) == "queued"
    log = EventLog(lane._redis)
    for job in (running, queued, waiting):
        assert (await kinds(log, job.id)).count("cancelled") == 1
        assert "failed" not in await kinds(log, job.id)
    assert "cancelled" not in await kinds(log, done.id)


async def test_children_of_cancelled_jobs_that_were_not_named_fail(lane: Lane) -> None:
    parents = [new(), new()]
    child = child_of(*parents)
    grandchild = child_of(child)
    await lane.submit([*parents, child, grandchild])
    await lane.cancel_all("ada", [job.id for job in parents])
    for one in (child, grandchild):
        status = await lane.status("ada", one.id)
        assert status.state == "failed"
        assert status.error is not None
        assert status.error.code == "dependency_failed"
    assert await kinds(EventLog(lane._redis), child.id) == ["waiting", "failed"]


async def test_everything_that_has_not_ended_is_cancelled(lane: Lane) -> None:
    first = new()
    await lane.submit([first])
    await run_one(lane)
    chain = [new()]
    for _ in range(3):
        chain.append(child_of(chain[-1]))
    many = [new(priority="low") for _ in range(450)]
    await lane.submit([*chain, *many])
    await lane.submit([new("bob")])
    gone = await lane.cancel_everything("ada")
    assert sorted(gone) == sorted(job.id for job in (*chain, *many))
    assert await state(lane, first) == "completed"
    assert [job.person for job in await lane.take("gpt2", "w1")] == ["bob"]
    assert await lane.cancel_everything("ada") == []


async def test_only_those_in_some_states_are_cancelled_where_these_are_named(lane: Lane) -> None:
    running, queued = new(), new()
    await lane.submit([running, queued])
    await lane.take("gpt2", "w1", max_jobs=1)
    assert await lane.cancel_everything("ada", {"queued"}) == [queued.id]
    assert await state(lane, running) == "running"
