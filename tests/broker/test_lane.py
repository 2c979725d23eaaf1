"""The guarantees of the interactive lane, on a real Valkey."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import redis.asyncio

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.jobs import Completion, NewJob, Source
from telepatch_broker.lane import Lane
from telepatch_broker.registry import Registry, WorkerInfo
from telepatch_protocol.errors import (
    BadArgument,
    Cancelled,
    ErrorRecord,
)
from telepatch_protocol.jobs import Price, SavedMeta, new_job_id

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


async def alive(client: redis.asyncio.Redis, worker: str) -> None:
    """Have a worker say that it lives."""
    info = WorkerInfo(id=worker, model="gpt2", host="here", pid=1, device="cpu", started=time.time())
    await Registry(client).heartbeat(info)


async def state(lane: Lane, job: NewJob) -> str:
    return (await lane.status(job.person, job.id)).state


async def test_a_job_reaches_the_worker_as_it_was_submitted_and_its_result_the_owner(lane: Lane) -> None:
    price = Price(rows=1, tokens=5, passes=1, peak_bytes=1, saved_bytes=16, flops=1e9)
    job = new(
        document=b'{"a": 1}', tokens=b"[1]", attachment=b"\x00\xff", price=price, cost=5, group="grad", warnings=("w",)
    )
    [accepted] = await lane.submit([job])
    assert (accepted.state, accepted.price, accepted.warnings) == ("queued", price, ("w",))
    [taken] = await lane.take("gpt2", "w1")
    assert (taken.id, taken.person, taken.model, taken.document) == (job.id, "ada", "gpt2", b'{"a": 1}')
    assert (taken.tokens, taken.attachment, taken.attachment_blob) == (b"[1]", b"\x00\xff", None)
    assert (taken.cost, taken.alone, taken.group, taken.attempt, taken.parents) == (5, False, "grad", 1, {})
    assert abs(taken.submitted - time.time()) < 60
    assert await lane.complete(job.id, "w1", saves=SAVES, result=b"tensors", warnings=["v"], seconds=0.5)
    status = await lane.status("ada", job.id)
    assert (status.state, status.saves, status.result_bytes, status.price) == ("completed", SAVES, 7, price)
    assert (status.warnings, status.attempts, status.position) == (("w", "v"), 1, None)
    times = status.timings
    assert times.submitted <= (times.queued or 0) <= (times.started or 0) <= (times.ended or 0)
    result = await lane.result("ada", job.id)
    assert (result.inline, result.blob, result.size, result.saves) == (b"tensors", None, 7, SAVES)
    assert b"".join([part async for part in lane.read(result, 1, 4)]) == b"ens"


async def test_the_same_job_again_is_the_same_job(lane: Lane) -> None:
    job = new()
    assert await put(lane, job) == ["queued"]
    assert await put(lane, job) == ["queued"]
    assert await lane.queue_length("gpt2") == 1
    await run_one(lane)
    assert await put(lane, job) == ["completed"]
    assert await lane.take("gpt2", "w1") == []


@pytest.mark.parametrize("more", [{"document": b"[]"}, {"attachment": b"x"}, {"person": "eve"}, {"model": "llama"}])
async def test_the_same_id_with_another_content_is_refused(lane: Lane, more: dict[str, Any]) -> None:
    job = new()
    await lane.submit([job])
    [refused] = await lane.submit([new(id=job.id, **more)])
    assert refused.state is None
    assert refused.error is not None
    assert refused.error.code == "conflict"
    assert await lane.queue_length("gpt2") == 1


async def test_the_same_parents_with_other_names_are_another_content(lane: Lane) -> None:
    one, two = new(), new()
    child = child_of(one)
    await lane.submit([one, two, child])
    [refused] = await lane.submit([child_of(two, id=child.id)])
    assert refused.error is not None


async def test_people_take_turns_however_many_jobs_one_of_them_has(lane: Lane) -> None:
    await lane.submit([new("ada") for _ in range(50)])
    await lane.submit([new("bob") for _ in range(3)])
    batch = await lane.take("gpt2", "w1", max_jobs=6)
    assert sorted(job.person for job in batch) == ["ada"] * 3 + ["bob"] * 3


async def test_a_turn_is_measured_in_tokens(lane: Lane) -> None:
    await lane.submit([new("ada", cost=90) for _ in range(5)])
    await lane.submit([new("bob", cost=10) for _ in range(20)])
    people = [job.person for _ in range(11) for job in await lane.take("gpt2", "w1", max_jobs=1)]
    assert people.count("bob") in (9, 10)


async def test_a_person_who_was_away_has_saved_no_credit(lane: Lane) -> None:
    await lane.submit([new("bob")])
    await lane.submit([new("ada") for _ in range(40)])
    for _ in range(21):
        await lane.take("gpt2", "w1", max_jobs=1)
    await lane.submit([new("bob") for _ in range(10)])
    people = [job.person for job in await lane.take("gpt2", "w1", max_jobs=10)]
    assert people.count("ada") in (4, 5, 6)


async def test_leaving_the_queue_does_not_clear_what_one_was_served(lane: Lane) -> None:
    await lane.submit([new("bob", cost=1) for _ in range(30)])
    await lane.submit([new("ada", cost=100)])
    assert sorted(job.person for job in await lane.take("gpt2", "w1", max_jobs=2)) == ["ada", "bob"]
    await lane.submit([new("ada", cost=100)])
    people = [job.person for job in await lane.take("gpt2", "w1", max_jobs=20)]
    assert people == ["bob"] * 20


async def test_the_jobs_of_one_person_run_in_their_order(lane: Lane) -> None:
    jobs = [new() for _ in range(20)]
    await lane.submit(jobs)
    assert [job.id for job in await lane.take("gpt2", "w1")] == [job.id for job in jobs]


async def test_a_batch_stays_within_its_tokens(lane: Lane) -> None:
    await lane.submit([new(cost=40) for _ in range(4)])
    assert len(await lane.take("gpt2", "w1", max_tokens=100)) == 2


async def test_a_job_larger_than_the_batch_is_taken_all_the_same(lane: Lane) -> None:
    await lane.submit([new(cost=4000)])
    assert len(await lane.take("gpt2", "w1", max_tokens=100)) == 1


async def test_a_job_marked_alone_shares_no_batch(lane: Lane) -> None:
    await lane.submit([new(), new(alone=True), new(), new()])
    sizes = [[job.alone for job in await lane.take("gpt2", "w1")] for _ in range(3)]
    assert sizes == [[False], [True], [False, False]]


async def test_only_jobs_of_one_group_share_a_batch(lane: Lane) -> None:
    await lane.submit([new(), new(group="grad"), new(group="grad"), new()])
    assert [len(await lane.take("gpt2", "w1")) for _ in range(3)] == [1, 2, 1]


async def test_models_have_queues_of_their_own(lane: Lane) -> None:
    await lane.submit([new(model="gpt2"), new(model="org/llama:8b")])
    assert [job.model for job in await lane.take("org/llama:8b", "w1")] == ["org/llama:8b"]
    assert await lane.queue_length("gpt2") == 1


async def test_a_sleeping_worker_wakes_at_once(lane: Lane) -> None:
    sleeper = asyncio.create_task(lane.take("gpt2", "w1", wait_seconds=20))
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await lane.submit([new()])
    assert len(await sleeper) == 1
    assert time.monotonic() - began < 1.0


async def test_all_sleeping_workers_wake_while_there_is_work(lane: Lane) -> None:
    sleepers = [asyncio.create_task(lane.take("gpt2", f"w{i}", max_jobs=1, wait_seconds=20)) for i in range(4)]
    await asyncio.sleep(0.2)
    await lane.submit([new() for _ in range(4)])
    assert [len(jobs) for jobs in await asyncio.wait_for(asyncio.gather(*sleepers), 2)] == [1, 1, 1, 1]


async def test_waiting_for_work_ends_in_time(lane: Lane) -> None:
    began = time.monotonic()
    assert await lane.take("gpt2", "w1", wait_seconds=0.3) == []
    assert 0.25 < time.monotonic() - began < 2


async def test_a_renewed_lease_is_not_reclaimed(lane: Lane) -> None:
    await lane.submit([new()])
    [job] = await lane.take("gpt2", "w1", lease_seconds=0.2)
    assert await lane.renew("w1", [job.id], lease_seconds=30) == set()
    await asyncio.sleep(0.3)
    assert await lane.reclaim() == []


async def test_the_jobs_of_a_dead_worker_go_first_and_alone_to_another(lane: Lane) -> None:
    first, second, third = jobs = [new(), new(), new()]
    await lane.submit(jobs)
    await lane.take("gpt2", "dead", max_jobs=2, lease_seconds=0.01)
    await asyncio.sleep(0.05)
    assert set(await lane.reclaim("gpt2")) == {first.id, second.id}
    batches = [await lane.take("gpt2", "w2") for _ in range(3)]
    assert [[job.id for job in batch] for batch in batches] == [[first.id], [second.id], [third.id]]
    assert [batch[0].attempt for batch in batches] == [2, 2, 1]
    assert [batch[0].alone for batch in batches] == [True, True, False]


async def test_a_job_that_loses_three_workers_fails_though_they_live(lane: Lane, client: redis.asyncio.Redis) -> None:
    job = new()
    child = child_of(job)
    await lane.submit([job, child])
    for attempt in (1, 2, 3):
        await alive(client, f"w{attempt}")
        [taken] = await lane.take("gpt2", f"w{attempt}", lease_seconds=0.01)
        assert taken.attempt == attempt
        await asyncio.sleep(0.03)
        await lane.reclaim()
    assert await lane.take("gpt2", "w4") == []
    status = await lane.status("ada", job.id)
    assert status.state == "failed"
    assert status.error is not None
    assert status.error.code == "worker_lost"
    assert await state(lane, child) == "failed"


async def test_a_job_has_one_result_although_two_workers_ran_it(lane: Lane, blobs: DirectoryBlobs) -> None:
    job = new()
    await lane.submit([job])
    await lane.take("gpt2", "slow", lease_seconds=0.01)
    await asyncio.sleep(0.03)
    await lane.reclaim()
    [_] = await lane.take("gpt2", "quick")
    assert await lane.renew("slow", [job.id]) == {job.id}
    assert not await lane.complete(job.id, "slow", saves={}, result=b"late")
    assert not await lane.fail(job.id, "slow", BOOM)
    assert not await lane.note(job.id, "slow", "progress", {"done": 1})
    assert await lane.complete(job.id, "quick", saves=SAVES, result=b"right")
    assert not await lane.complete(job.id, "slow", saves={}, result=b"later")
    assert (await lane.result("ada", job.id)).inline == b"right"


async def test_a_completion_sent_twice_counts_once(lane: Lane) -> None:
    job = new()
    await lane.submit([job])
    await lane.take("gpt2", "w1")
    assert await lane.complete(job.id, "w1", saves=SAVES, result=b"one")
    assert await lane.complete(job.id, "w1", saves={}, result=b"two")
    assert (await lane.result("ada", job.id)).inline == b"one"


async def test_a_job_given_back_keeps_its_place_and_its_attempts(lane: Lane) -> None:
    jobs = [new() for _ in range(4)]
    await lane.submit(jobs)
    taken = await lane.take("gpt2", "w1", max_jobs=2)
    await lane.give_back("w1", [job.id for job in taken])
    again = await lane.take("gpt2", "w2")
    assert [job.id for job in again] == [job.id for job in jobs]
    assert {job.attempt for job in again} == {1}
    await lane.give_back("w1", [jobs[0].id])
    assert await state(lane, jobs[0]) == "running"


async def test_a_waiting_job_can_be_cancelled(lane: Lane) -> None:
    parent = new()
    child = child_of(parent)
    await lane.submit([parent, child])
    assert await lane.cancel("ada", child.id) == "cancelled"
    await run_one(lane)
    assert await lane.take("gpt2", "w1") == []
    assert await state(lane, child) == "cancelled"


async def test_a_queued_job_can_be_cancelled_and_leaves_the_queue(lane: Lane) -> None:
    job, other = new(), new()
    child = child_of(job)
    await lane.submit([job, other, child])
    assert await lane.cancel("ada", job.id) == "cancelled"
    assert await lane.queue_length("gpt2") == 1
    assert [taken.id for taken in await lane.take("gpt2", "w1")] == [other.id]
    assert await state(lane, child) == "failed"
    with pytest.raises(Cancelled):
        await lane.result("ada", job.id)


async def test_a_running_job_can_be_cancelled_and_the_worker_learns_of_it(lane: Lane) -> None:
    job, other = new(), new()
    await lane.submit([job, other])
    await lane.take("gpt2", "w1")
    told = asyncio.create_task(anext(lane.cancellations("gpt2")))
    await asyncio.sleep(0.2)
    assert await lane.cancel("ada", job.id) == "cancelled"
    assert await asyncio.wait_for(told, 1) == job.id
    assert await lane.renew("w1", [job.id, other.id]) == {job.id}
    assert not await lane.complete(job.id, "w1", saves={}, result=b"")
    assert await lane.reclaim() == []
    assert await state(lane, job) == "cancelled"


async def test_an_ended_job_stays_as_it_is_when_cancelled(lane: Lane) -> None:
    done, failed, gone = jobs = [new(), new(), new()]
    await lane.submit(jobs)
    await run_one(lane)
    await lane.take("gpt2", "w1", max_jobs=1)
    await lane.fail(failed.id, "w1", BOOM)
    await lane.cancel("ada", gone.id)
    assert [await lane.cancel("ada", job.id) for job in jobs] == ["completed", "failed", "cancelled"]
    assert (await lane.result("ada", done.id)).inline == b"data"


@pytest.mark.parametrize(
    "more", [{"id": "../etc"}, {"id": new_job_id().upper()}, {"person": "a b"}, {"model": "x}y"}, {"person": ""}]
)
async def test_names_that_could_reach_other_keys_are_refused(lane: Lane, more: dict[str, Any]) -> None:
    with pytest.raises(BadArgument):
        await lane.submit([new(**more)])


async def test_one_id_twice_in_one_submission_is_refused(lane: Lane) -> None:
    job = new()
    with pytest.raises(BadArgument, match=job.id):
        await lane.submit([job, job])


async def test_many_are_completed_in_one_exchange_and_each_stands_for_itself(lane: Lane) -> None:
    await lane.submit([NewJob(new_job_id(), "ada", "m", b"{}") for _ in range(3)])
    jobs = await lane.take("m", "w1", max_jobs=3)
    await lane.cancel("ada", jobs[1].id)
    completions = [Completion(job.id, SAVES, bytes([at])) for at, job in enumerate(jobs)]
    assert await lane.complete_all(completions, "w1") == [True, False, True]
    assert await lane.complete_all(completions, "w1") == [True, False, True]
    found = [await lane.result("ada", job.id) for job in (jobs[0], jobs[2])]
    assert [one.inline for one in found] == [b"\x00", b"\x02"]
