"""How jobs ended, on its way to the queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import torch

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import LOST, connect
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.jobs import new_job_id
from telepatch_worker import handing_in, results
from telepatch_worker.desk import Outcome
from telepatch_worker.handing_in import SMALL_BYTES, HandingIn


class Counter:
    """The owner of some jobs, on a real queue; notes what happens."""

    def __init__(self, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lane = lane
        self.lost: set[str] = set()
        self.over: list[str] = []
        self.sizes: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.handing_in = HandingIn(self.lane, "w1", self, self.spawn)
        real = self.lane.complete_all

        async def counted(completions: Any, worker: str) -> list[bool]:
            self.sizes.append(len(completions))
            return await real(completions, worker)

        monkeypatch.setattr(self.lane, "complete_all", counted)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    def gone(self, job: str) -> bool:
        return job in self.lost

    async def before_end(self, job: str) -> None:
        await asyncio.sleep(0)

    def handed_in(self, outcome: Outcome) -> None:
        self.over.append(outcome.id)

    async def running(self, count: int) -> list[str]:
        await self.lane.submit([NewJob(new_job_id(), "ada", "m", b"{}") for _ in range(count)])
        return [job.id for job in await self.lane.take("m", "w1", max_jobs=count)]

    async def ended(self) -> None:
        while self._tasks:
            await asyncio.gather(*[self._tasks.pop() for _ in range(len(self._tasks))])

    async def value(self, job: str) -> torch.Tensor:
        found = await self.lane.result("ada", job)
        return results.decode(b"".join([part async for part in self.lane.read(found)]))["x"]


@pytest.fixture
async def counter(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Counter]:
    client = connect(redis_url)
    yield Counter(Lane(client, DirectoryBlobs(tmp_path)), monkeypatch)
    await client.aclose()


def small(job: str, number: float) -> Outcome:
    return Outcome(job, {"x": torch.tensor([number])})


async def test_results_that_come_together_go_together_each_to_its_job(counter: Counter):
    jobs = await counter.running(5)
    for number, job in enumerate(jobs):
        counter.handing_in.add(small(job, number))
    await counter.ended()
    assert counter.sizes == [5]
    assert [float(await counter.value(job)) for job in jobs] == [0, 1, 2, 3, 4]
    assert counter.over == jobs


async def test_what_comes_while_others_are_on_their_way_goes_after_them(counter: Counter):
    jobs = await counter.running(3)
    counter.handing_in.add(small(jobs[0], 0))
    await asyncio.sleep(0)
    for job in jobs[1:]:
        counter.handing_in.add(small(job, 1))
    await counter.ended()
    assert sum(counter.sizes) == 3
    assert sorted(counter.over) == sorted(jobs)


async def test_a_large_result_goes_by_itself(counter: Counter):
    jobs = await counter.running(3)
    counter.handing_in.add(Outcome(jobs[0], {"x": torch.zeros(SMALL_BYTES)}))
    for job in jobs[1:]:
        counter.handing_in.add(small(job, 1))
    await counter.ended()
    assert sorted(counter.sizes) == [1, 2]
    assert (await counter.value(jobs[0])).shape == (SMALL_BYTES,)


async def test_a_job_that_is_not_this_worker_s_any_more_is_let_go_and_not_handed_in(counter: Counter):
    jobs = await counter.running(2)
    counter.lost.add(jobs[0])
    for job in jobs:
        counter.handing_in.add(small(job, 1))
    await counter.ended()
    assert counter.sizes == [1]
    assert (await counter.lane.status("ada", jobs[0])).state == "running"
    assert sorted(counter.over) == sorted(jobs)


async def test_one_that_cannot_be_stored_fails_alone(counter: Counter, monkeypatch: pytest.MonkeyPatch):
    jobs = await counter.running(3)
    encode: Callable[..., bytes] = results.encode

    def refusing(tensors: dict[str, torch.Tensor]) -> bytes:
        if float(tensors["x"]) == 1:
            raise RuntimeError("no room")
        return encode(tensors)

    monkeypatch.setattr(handing_in.results, "encode", refusing)
    for number, job in enumerate(jobs):
        counter.handing_in.add(small(job, number))
    await counter.ended()
    states = [(await counter.lane.status("ada", job)).state for job in jobs]
    assert states == ["completed", "failed", "completed"]


async def test_a_failed_job_tells_why(counter: Counter):
    [job] = await counter.running(1)
    counter.handing_in.add(Outcome(job, None, BadArgument("not like this")))
    await counter.ended()
    status = await counter.lane.status("ada", job)
    assert status.error is not None
    assert "not like this" in status.error.detail


async def test_results_wait_for_a_queue_that_does_not_write_and_are_not_computed_again(counter: Counter):
    jobs = await counter.running(3)
    client = counter.lane._redis
    await client.config_set("min-replicas-to-write", 1)
    try:
        for number, job in enumerate(jobs[:2]):
            counter.handing_in.add(small(job, number))
        counter.handing_in.add(Outcome(jobs[2], None, BadArgument("not like this")))
        await asyncio.sleep(1.3)
        assert counter.over == []
    finally:
        await client.config_set("min-replicas-to-write", 0)
    await counter.ended()
    assert sorted(counter.over) == sorted(jobs)
    assert [float(await counter.value(job)) for job in jobs[:2]] == [0, 1]
    assert (await counter.lane.status("ada", jobs[2])).state == "failed"


async def test_a_queue_that_stays_away_is_given_up_and_others_do_the_job(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(handing_in, "PATIENCE_SECONDS", 0.0)
    [job] = await counter.running(1)
    client = counter.lane._redis
    await client.config_set("min-replicas-to-write", 1)
    try:
        counter.handing_in.add(small(job, 1))
        with pytest.raises(LOST):
            await counter.ended()
    finally:
        await client.config_set("min-replicas-to-write", 0)
    assert counter.over == [job]
    assert (await counter.lane.status("ada", job)).state == "running"
