"""Jobs that were in hand when a worker was lost begin alone; one that was held up goes on with what it still has."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.worker.test_service import MODEL, desk, slow  # noqa: F401  (fixtures)

from telepatch_broker.events import START, EventLog
from telepatch_broker.jobs import TakenJob
from telepatch_protocol.jobs import new_job_id
from telepatch_worker import suspects
from telepatch_worker.plan import Task
from telepatch_worker.suspects import Suspects, sort_out


def taken(attempt: int = 1, lane: Any = "interactive") -> TakenJob:
    return TakenJob(
        new_job_id(), "ada", MODEL, b"{}", b"", b"", None, {}, 1, False, "", attempt, time.time(), lane=lane
    )


def tasks(*jobs: TakenJob) -> tuple[list[Task], dict[str, TakenJob]]:
    return [Task(job.id, None) for job in jobs], {job.id: job for job in jobs}  # type: ignore[arg-type]


def test_a_suspect_waits_until_nothing_runs_and_nobody_joins_it_until_it_has_ended() -> None:
    held = Suspects()
    [plain, bad], mine = tasks(taken(), taken(2))
    assert held.part([plain, bad], mine, empty=True) == [plain]
    assert held.closed
    assert held.part([], mine, empty=False) == []
    assert held.part([], mine, empty=True) == [bad]
    assert held.closed
    held.ended(plain.id)
    assert held.closed
    held.ended(bad.id)
    assert not held.closed


def test_one_after_the_other_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Suspects()
    both, mine = tasks(taken(2), taken(3))
    assert held.part(both, mine, empty=True) == both[:1]
    assert held.part([], mine, empty=False) == []
    held.ended(both[0].id)
    assert held.part([], mine, empty=True) == both[1:]


def test_it_waits_only_for_so_long_and_is_alone_only_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "DRAINING_SECONDS", 0.05)
    monkeypatch.setattr(suspects, "ALONE_SECONDS", 0.05)
    held = Suspects()
    [bad], mine = tasks(taken(2))
    assert held.part([bad], mine, empty=False) == []
    time.sleep(0.06)
    assert held.part([], mine, empty=False) == [bad]
    assert held.closed
    time.sleep(0.06)
    assert not held.closed


def test_a_job_that_trains_is_no_suspect_and_does_not_begin_beside_one() -> None:
    held = Suspects()
    [long], mine = tasks(taken(2, "long"))
    assert held.part([long], mine, empty=False) == [long]
    bad, beside = taken(2), taken(1, "long")
    assert sort_out([bad, beside], {}, set()) == ([bad], [beside.id])
    assert sort_out([taken(), beside], {}, set())[1] == []


def test_what_is_in_hand_already_goes_on_and_what_is_being_stopped_goes_back() -> None:
    here, stopping, new = taken(2), taken(2), taken()
    mine = {job.id: job for job in (here, stopping)}
    assert sort_out([here, stopping, new], mine, {stopping.id}) == ([new], [stopping.id])


async def test_the_jobs_of_a_dead_worker_run_one_after_the_other(desk: Any) -> None:  # noqa: F811
    jobs = [desk.generation([5, 6, at], 20) for at in range(3)]
    ids = await desk.submit(*jobs)
    await desk.lane.take(MODEL, "dead", lease_seconds=0.01)
    await asyncio.sleep(0.05)
    assert set(await desk.lane.reclaim(MODEL)) == set(ids)
    async with desk.worker():
        assert set((await desk.ended(*ids)).values()) == {"completed"}
    events = await EventLog(desk.lane._redis).read("ada", START)
    steps = [(event.job, event.type) for event in events if event.type in ("running", "completed")][len(ids) :]
    assert steps == [(id, type) for id in ids for type in ("running", "completed")]


async def test_a_job_that_its_own_worker_got_again_runs_on_and_ends_once(desk: Any, slow: Any) -> None:  # noqa: F811
    begun = slow(0.8)
    get = desk.build.get("h", "blocks.0:resid_post", [":", -1])
    job = desk.job(get, desk.build.call("x", "exp", "$h"), desk.logits)
    async with desk.worker() as serving:
        await desk.submit(job)
        await asyncio.to_thread(begun.wait, 10)
        # As if it had been held up for longer than its leases.
        await desk.lane._redis.zadd(f"telepatch:{{{MODEL}}}:leases", {job.id: 1})
        assert await desk.lane.reclaim(MODEL) == [job.id]
        [again] = await desk.lane.take(MODEL, serving.worker)
        assert await serving._read([again]) == []
        assert set((await desk.ended(job.id)).values()) == {"completed"}
    events = await EventLog(desk.lane._redis).read("ada", START)
    assert [event.type for event in events if event.type in ("completed", "failed")] == ["completed"]
