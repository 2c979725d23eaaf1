"""Jobs that train, on a worker: they run in turns, go on from their checkpoints elsewhere, and can be cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.worker.test_fit import DATA, SAVED, probe
from tests.worker.training import MODEL, call, task, trained

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import connect
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_protocol.errors import TimeLimit
from telepatch_protocol.jobs import ENDED, new_job_id
from telepatch_protocol.subgraphs import trains
from telepatch_worker import checkpoints, results
from telepatch_worker.engine import Engine
from telepatch_worker.serving import Serving
from telepatch_worker.settings import Settings


class Desk:
    """The queue as a gateway sees it, and workers on it."""

    def __init__(self, url: str, folder: Path, engine: Engine) -> None:
        self.client = connect(url)
        self.blobs = DirectoryBlobs(folder / "blobs")
        self.lane = Lane(self.client, self.blobs)
        self.engine = engine
        self.settings = Settings(model=MODEL, redis_url=url, blobs=folder / "blobs", cache=folder / "cache")

    async def submit(self, document: Any, attachment: bytes = b"", person: str = "ada") -> str:
        lane = "long" if trains(document) else "interactive"
        text = document.to_json().encode()
        job = NewJob(new_job_id(), person, MODEL, document=text, attachment=attachment, lane=lane)
        [accepted] = await self.lane.submit([job])
        assert accepted.error is None
        return job.id

    async def train(self, person: str = "ada", **more: Any) -> str:
        one = task(probe(**more), saves=SAVED, constants=DATA)
        return await self.submit(one.graph, results.encode(one.attachment), person)

    @asynccontextmanager
    async def worker(self, name: str, **changes: Any) -> AsyncIterator[Serving]:
        serving = Serving(self.engine, self.lane, name, self.settings.model_copy(update=changes))
        running = asyncio.create_task(serving.run())
        try:
            yield serving
        finally:
            serving.stop()
            await asyncio.wait_for(running, 20)

    async def until(self, id: str, *states: str, seconds: float = 20.0) -> str:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            state = (await self.client.hget(f"telepatch:job:{id}", "state")).decode()
            if state in states:
                return state
            await asyncio.sleep(0.01)
        raise AssertionError(f"job is {state}")

    async def values(self, id: str, person: str = "ada") -> dict[str, torch.Tensor]:
        assert await self.until(id, *ENDED) == "completed"
        found = await self.lane.result(person, id)
        return results.decode(b"".join([chunk async for chunk in self.lane.read(found)]))

    async def told(self, id: str, person: str = "ada") -> list[str]:
        """The kinds of events of a job, in order."""
        raw = await self.client.xrange(f"telepatch:person:{person}:events")
        return [fields[b"type"].decode() for _, fields in raw if fields[b"job"] == id.encode()]

    async def checkpoint(self, id: str) -> dict[str, checkpoints.Checkpoint]:
        """What is stored of a job that runs, once something is."""
        name = None
        while name is None:
            name = await self.client.hget(f"telepatch:job:{id}", "checkpoint")
            await asyncio.sleep(0.005)
        return checkpoints.decode((self.blobs.directory / name.decode()).read_bytes())


@pytest.fixture
async def desk(redis_url: str, tmp_path: Path, gpt2: Engine) -> AsyncIterator[Desk]:
    found = Desk(redis_url, tmp_path, gpt2)
    yield found
    await found.client.aclose()


LONG = {"steps": 1_000_000, "checkpoint_every": 50}


async def test_a_fit_runs_in_turns_with_the_traces_of_others(desk: Desk, build: Any):
    plain = build.graph(MODEL, {"a": [5, 6, 7]}, build.get("l", "lm_head:output", [":", -1]))
    async with desk.worker("w1"):
        long = await desk.train(**LONG)
        await desk.until(long, "running")
        took = []
        for _ in range(5):
            began = time.monotonic()
            await desk.until(await desk.submit(plain), "completed")
            took.append(time.monotonic() - began)
        assert (await desk.lane.states("ada", [long]))[long] == "running"
        assert sorted(took)[2] < 1.0
        await desk.lane.cancel("ada", long)
        await desk.until(long, "cancelled")
        assert await desk.until(await desk.submit(plain), "completed") == "completed"


async def test_fits_of_several_people_advance_slice_by_slice(desk: Desk):
    alone = trained(desk.engine, task(probe(steps=600), saves=SAVED, constants=DATA))
    first, second = await desk.train(steps=600), await desk.train("bob", steps=600)
    async with desk.worker("w1", worker_slice_seconds=0.05):
        found = [await desk.values(first), await desk.values(second, "bob")]
    for one in found:
        assert torch.equal(one["W"], alone["W"])
        assert torch.equal(one["loss"], alone["loss"])
    for told in (await desk.told(first), await desk.told(second, "bob")):
        turns = [kind for kind in told if kind in ("queued", "running", "completed")]
        assert turns[:4] == ["queued", "running", "queued", "running"]
        assert turns[-1] == "completed"
    assert (await desk.lane.status("ada", first)).attempts == 1


async def test_the_fits_of_one_person_come_to_their_ends_one_after_the_other(desk: Desk):
    first, second = await desk.train(steps=200), await desk.train(steps=200)
    async with desk.worker("w1", worker_slice_seconds=0.01):
        await desk.values(second)
    raw = await desk.client.xrange("telepatch:person:ada:events")
    running = [fields[b"job"].decode() for _, fields in raw if fields[b"type"] == b"running"]
    assert running == [first, second]


async def test_a_healthy_fit_moves_to_a_worker_that_has_room(desk: Desk):
    alone = trained(desk.engine, task(probe(steps=600), saves=SAVED, constants=DATA))
    id, other = await desk.train(steps=600), await desk.train("bob", **LONG)
    async with desk.worker("w1", worker_slice_seconds=0.05):
        await desk.until(id, "running")
        await desk.until(id, "queued")
        [taken] = await desk.lane.take(MODEL, "w2", max_long=1)
        assert (taken.id, taken.spent > 0, taken.attempt) == (id, True, 1)
        await desk.until(other, "running")
        checkpoint = await desk.lane.last_checkpoint(taken)
    one = task(probe(steps=600), saves=SAVED, constants=DATA, checkpoint=checkpoint)
    assert torch.equal(trained(desk.engine, one)["W"], alone["W"])


async def test_the_time_of_earlier_slices_counts(desk: Desk):
    one = task(probe(steps=5), saves=SAVED, constants=DATA).begun(b"", desk.engine.card.limits.max_fit_seconds)
    [outcome] = desk.engine.run([one])
    assert isinstance(outcome.error, TimeLimit)


async def test_another_worker_goes_on_from_the_last_checkpoint_of_one_that_was_stopped(desk: Desk):
    whole = trained(desk.engine, task(probe(steps=800), saves=SAVED, constants=DATA))
    async with desk.worker("w1"):
        id = await desk.train(steps=800, checkpoint_every=50)
        await desk.checkpoint(id)
    assert (await desk.lane.states("ada", [id]))[id] == "queued"
    [held] = (await desk.checkpoint(id)).values()
    assert 0 < held.plain["step"] < 800
    async with desk.worker("w2"):
        found = await desk.values(id)
    assert torch.equal(found["W"], whole["W"])
    assert torch.equal(found["loss"], whole["loss"])
    assert await desk.client.hget(f"telepatch:job:{id}", "checkpoint") is None
    due = await desk.client.zrange("telepatch:garbage", 0, -1)
    assert any(name.startswith(b"checkpoint-") for name in due)


async def test_progress_and_the_loss_are_told_while_it_runs(desk: Desk):
    async with desk.worker("w1"):
        id = await desk.train(steps=400, emit={"loss": "$f.loss"})
        await desk.values(id)
    raw = await desk.client.xrange("telepatch:person:ada:events")
    told = [fields for _, fields in raw if fields[b"job"] == id.encode()]
    kinds = [fields[b"type"].decode() for fields in told]
    assert "progress" in kinds
    assert "values" in kinds
    progress = [fields[b"data"] for fields in told if fields[b"type"] == b"progress"]
    assert b'"total": 400' in progress[-1]


async def test_a_fit_that_cannot_run_fails_alone(desk: Desk):
    async with desk.worker("w1"):
        bad = probe(steps=3)
        bad["body"] = {"nodes": [call("m", "matmul", "$x", "$x"), call("l", "sum", "$m")], "out": {"loss": "$l"}}
        one = task(bad, saves=SAVED, constants=DATA)
        id = await desk.submit(one.graph, results.encode(one.attachment))
        good = await desk.train(steps=3)
        assert await desk.until(id, *ENDED) == "failed"
        assert await desk.until(good, *ENDED) == "completed"
