"""Cancelling, and limits of time, on a real queue: a job stops wherever it is, and nobody else notices."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.worker.generating import plain
from tests.worker.test_fit import DATA, SAVED, probe
from tests.worker.test_service import MODEL, A, B, Desk, sleeper
from tests.worker.training import task

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import connect
from telepatch_broker.events import START, EventLog
from telepatch_broker.jobs import NewJob, Source
from telepatch_broker.lane import Lane
from telepatch_protocol.errors import DependencyFailed, TimeLimit
from telepatch_protocol.jobs import new_job_id
from telepatch_worker import evaluate, results
from telepatch_worker.settings import Settings

TRAINS = {"steps": 1_000_000, "checkpoint_every": 50}


@pytest.fixture
async def desk(redis_url: str, tmp_path: Path, gpt2: Any, build: Any) -> AsyncIterator[Desk]:
    client = connect(redis_url)
    blobs = DirectoryBlobs(tmp_path / "blobs")
    settings = Settings(model=MODEL, redis_url=redis_url, blobs=tmp_path / "blobs", cache=tmp_path / "cache")
    yield Desk(redis_url, blobs, Lane(client, blobs), settings, gpt2, build)
    await client.aclose()


class Gate:
    """Holds up the operation ``exp`` until it is opened, or lets it pass after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.begun, self.open, self.passed = threading.Event(), threading.Event(), 0
        self._seconds = seconds

    def wait(self) -> None:
        self.begun.set()
        self.open.wait(self._seconds)
        self.passed += 1


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Gate]:
    def make(seconds: float = 60.0) -> Gate:
        run_op, found = evaluate.run_op, Gate(seconds)

        def slow(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == "exp":
                found.wait()
            return run_op(name, *args, **kwargs)

        monkeypatch.setattr(evaluate, "run_op", slow)
        return found

    return make


async def told(desk: Desk, id: str) -> list[str]:
    """The kinds of events of a job, in order."""
    return [event.type for event in await EventLog(desk.lane._redis).read("ada", START, count=5000) if event.job == id]


async def cancelled_once(desk: Desk, id: str) -> bool:
    """Whether its owner was told that it was cancelled, once and at last."""
    kinds = await told(desk, id)
    return kinds.count("cancelled") == 1 and kinds[-1] == "cancelled" and not {"completed", "failed"} & set(kinds)


async def right(desk: Desk, *jobs: NewJob) -> bool:
    """Whether traces came to what they come to alone."""
    expected = desk.engine.run([desk.build.task(MODEL, {"a": A}, desk.logits)])[0].saved["l"]
    return all([torch.allclose((await desk.values(job.id))["l"], expected, atol=1e-5) for job in jobs])


def fit(**more: Any) -> NewJob:
    one = task(probe(**more), saves=SAVED, constants=DATA)
    document = one.graph.to_json().encode()
    return NewJob(new_job_id(), "ada", MODEL, document, attachment=results.encode(one.attachment), lane="long")


def looping(desk: Desk, times: int) -> NewJob:
    """A job that computes ``exp`` again and again."""
    nodes = [desk.build.call("e", "exp", "$y"), desk.build.call("m", "mul", "$e", 0.1)]
    body = {"nodes": nodes, "runs": [], "out": {"y": "$m"}}
    node = {"kind": "repeat", "id": "f", "n": times, "carry": {"y": 0.5}, "body": body}
    graph = desk.build.graph(MODEL, {}, node, saves={"y": "$f.y"})
    return desk.job(document=graph.to_json().encode())


def mapping(desk: Desk, elements: int) -> NewJob:
    """A job that runs the model for each of many elements, and computes ``exp`` in mid-forward."""
    nodes = [
        desk.build.get("h", "blocks.0:resid_post", [":", -1], invoke="x"),
        desk.build.call("e", "exp", "$h"),
        desk.build.get("z", "lm_head:output", [":", -1, 0], invoke="x"),
    ]
    body = {"nodes": nodes, "runs": [{"id": "rr", "invokes": [{"id": "x", "ids": "$p"}]}], "out": {"z": "$z"}}
    over = {"p": [[1 + at % 200, 2, 3] for at in range(elements)]}
    node = {"kind": "map", "id": "f", "over": over, "body": body}
    graph = desk.build.graph(MODEL, {}, node, saves={"z": "$f.z"})
    return desk.job(document=graph.to_json().encode())


async def test_a_job_that_was_taken_ahead_and_cancelled_does_not_begin(desk, gate):
    held = gate()
    first, second, gone, stays = [desk.job(*sleeper(desk.build)) for _ in range(3)] + [desk.job()]
    async with desk.worker() as serving:
        await desk.submit(first)
        await asyncio.to_thread(held.begun.wait, 30)
        await asyncio.sleep(0.2)  # a turn that took long: during the next one jobs are taken ahead
        held.open.set()
        await desk.ended(first.id)
        held.open.clear()
        held.begun.clear()
        await desk.submit(second)
        await asyncio.to_thread(held.begun.wait, 30)
        passed = held.passed
        await desk.submit(gone, stays)
        while gone.id not in serving._next:
            await asyncio.sleep(0.005)
        assert await desk.lane.cancel("ada", gone.id) == "cancelled"
        while gone.id not in serving._lost:
            await asyncio.sleep(0.005)
        held.open.set()
        await desk.ended(second.id, stays.id)
        assert held.passed == passed + 1, "the one that was running"
        assert serving.running == 0
    assert await cancelled_once(desk, gone.id)
    assert await right(desk, stays)


async def test_a_job_that_runs_in_a_batch_stops_at_its_next_site_and_its_neighbours_are_right(desk, gate):
    held = gate()
    gone, neighbours = desk.job(*sleeper(desk.build)), [desk.job() for _ in range(3)]
    await desk.submit(gone, *neighbours)
    async with desk.worker():
        await asyncio.to_thread(held.begun.wait, 30)
        assert await desk.lane.cancel("ada", gone.id) == "cancelled"
        assert (await told(desk, gone.id))[-1] == "cancelled", "seen before it has stopped"
        await asyncio.sleep(0.1)
        held.open.set()
        assert set((await desk.ended(*(job.id for job in neighbours))).values()) == {"completed"}
    assert await cancelled_once(desk, gone.id)
    assert await right(desk, *neighbours)


async def test_a_generation_stops_at_its_next_token_and_others_go_on(desk, monkeypatch):
    whole, steps = desk.engine.model.whole, []

    def counted(inputs, *args, **kwargs):
        steps.append(inputs["input_ids"].shape[0])
        time.sleep(0.02)
        return whole(inputs, *args, **kwargs)

    monkeypatch.setattr(desk.engine.model, "whole", counted)
    gone, stays = desk.generation(A, 200), desk.generation(B, 40)
    await desk.submit(gone, stays)
    async with desk.worker():
        while len(steps) < 5:
            await asyncio.sleep(0.005)
        assert await desk.lane.cancel("ada", gone.id) == "cancelled"
        await desk.ended(stays.id)
    assert len(steps) < 80, "nobody takes 200 steps"
    assert await cancelled_once(desk, gone.id)
    assert (await desk.values(stays.id))["tokens"].tolist() == plain(desk.engine, [B], 40)[0]


async def test_a_repeat_stops_at_its_next_step(desk, gate):
    held = gate(0.05)
    gone, child = looping(desk, 1000), None
    await desk.submit(gone)
    child = desk.job(
        desk.build.call("d", "add", "$v", 1.0),
        constants={"v": {"result": gone.id, "name": "y"}},
        parents={gone.id: Source()},
    )
    await desk.submit(child)
    async with desk.worker() as serving:
        await asyncio.to_thread(held.begun.wait, 30)
        await asyncio.sleep(0.3)  # a worker that has just begun may not hear of it before it renews its leases
        await desk.lane.cancel("ada", gone.id)
        while serving.running:
            await asyncio.sleep(0.01)
        assert held.passed < 30
    assert await cancelled_once(desk, gone.id)
    with pytest.raises(DependencyFailed, match="was cancelled"):
        await desk.lane.result("ada", child.id)


async def test_a_map_stops_in_the_middle_of_its_elements(desk, gate):
    held = gate(0.02)
    gone, stays = mapping(desk, 2000), desk.job()
    await desk.submit(gone, stays)
    async with desk.worker() as serving:
        await asyncio.to_thread(held.begun.wait, 30)
        await asyncio.sleep(0.3)  # a worker that has just begun may not hear of it before it renews its leases
        await desk.lane.cancel("ada", gone.id)
        await desk.ended(stays.id)
        while serving.running:
            await asyncio.sleep(0.01)
        assert held.passed < 1500
    assert await cancelled_once(desk, gone.id)
    assert await right(desk, stays)


async def test_a_fit_stops_between_two_steps(desk):
    gone, after = fit(**TRAINS), desk.job()
    await desk.submit(gone)
    async with desk.worker() as serving:
        await desk.until(gone.id, "running")
        while not (await told(desk, gone.id)).count("progress"):
            await asyncio.sleep(0.01)
        assert await desk.lane.cancel("ada", gone.id) == "cancelled"
        while serving.running:
            await asyncio.sleep(0.01)
        await desk.submit(after)
        await desk.ended(after.id)
    assert await cancelled_once(desk, gone.id)
    assert await desk.lane._redis.hget(f"telepatch:job:{gone.id}", "checkpoint") is None


async def test_a_fit_that_waits_for_its_next_slice_leaves_the_queue(desk):
    gone, other = fit(**TRAINS), replace(fit(**TRAINS), person="bob")
    await desk.submit(gone)
    await desk.lane.submit([other])
    async with desk.worker(worker_slice_seconds=0.05) as serving:
        await desk.until(gone.id, "running")
        while True:  # between two of its slices
            await desk.until(gone.id, "queued")
            if await desk.lane.cancel("ada", gone.id) == "cancelled":
                break
        await asyncio.sleep(0.2)
        assert (await desk.lane.states("bob", [other.id]))[other.id] == "running"
        await desk.lane.cancel("bob", other.id)
        while serving.running:
            await asyncio.sleep(0.01)
    kinds = await told(desk, gone.id)
    assert kinds.count("queued") > 1
    assert await cancelled_once(desk, gone.id)


async def test_a_job_whose_result_is_on_its_way_stays_cancelled(desk, monkeypatch):
    plain_complete, coming, go_on = Lane.complete_all, asyncio.Event(), asyncio.Event()

    async def complete_all(self, completions, worker):
        coming.set()
        await go_on.wait()
        return await plain_complete(self, completions, worker)

    monkeypatch.setattr(Lane, "complete_all", complete_all)
    gone, stays = desk.job(), desk.job()
    await desk.submit(gone, stays)
    async with desk.worker():
        await asyncio.wait_for(coming.wait(), 30)
        assert await desk.lane.cancel("ada", gone.id) == "cancelled"
        go_on.set()
        await desk.ended(stays.id)
    assert await cancelled_once(desk, gone.id)
    assert await desk.state(gone.id) == "cancelled"
    assert await right(desk, stays)


async def test_a_job_over_its_own_limit_of_time_fails_where_it_is_and_its_neighbours_go_on(desk, gate):
    held = gate(0.6)
    slow, stays = replace(desk.job(*sleeper(desk.build)), timeout_seconds=0.3), desk.job()
    await desk.submit(slow, stays)
    async with desk.worker():
        states = await desk.ended(slow.id, stays.id)
    assert states == {slow.id: "failed", stays.id: "completed"}
    assert held.passed == 1
    with pytest.raises(TimeLimit, match=r"ran for 0\.\d s; it was given 0\.3 s"):
        await desk.lane.result("ada", slow.id)
    assert await right(desk, stays)


async def test_a_loop_and_a_fit_end_at_their_limits_of_time(desk, gate):
    held = gate(0.02)
    loop, trains = replace(looping(desk, 1000), timeout_seconds=0.2), replace(fit(**TRAINS), timeout_seconds=0.4)
    await desk.submit(loop, trains)
    async with desk.worker():
        states = await desk.ended(loop.id, trains.id, seconds=40)
    assert states == {loop.id: "failed", trains.id: "failed"}
    assert held.passed < 40
    for job in (loop, trains):
        with pytest.raises(TimeLimit, match="it was given"):
            await desk.lane.result("ada", job.id)


async def test_waiting_is_no_computing(desk, gate):
    held = gate(0.5)
    first, second = desk.job(*sleeper(desk.build)), replace(desk.job(), timeout_seconds=0.3)
    await desk.submit(first)
    async with desk.worker():
        await asyncio.to_thread(held.begun.wait, 30)
        await desk.submit(second)
        assert (await desk.ended(second.id))[second.id] == "completed"
