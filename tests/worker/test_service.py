"""A worker on a real queue: what it takes it hands in, or gives back, whatever happens in between."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.worker.generating import plain

from telepatch_broker.blobs import DirectoryBlobs, chunks_of
from telepatch_broker.connection import connect
from telepatch_broker.data import Uploads
from telepatch_broker.events import START, EventLog
from telepatch_broker.jobs import NewJob, Source
from telepatch_broker.lane import Lane
from telepatch_broker.registry import Registry
from telepatch_protocol import PROTOCOL
from telepatch_protocol.data_files import encode
from telepatch_protocol.errors import BadArgument, ExecutionError, GraphError, ProtocolError, VersionError
from telepatch_protocol.jobs import ENDED, new_job_id
from telepatch_protocol.tensors import Tensor
from telepatch_worker import evaluate, results
from telepatch_worker.engine import BatchLimits
from telepatch_worker.floor import Floor
from telepatch_worker.service import card_of, check_launch, housekeeping
from telepatch_worker.serving import Serving
from telepatch_worker.settings import Settings, Torchrun

MODEL = "gpt2-random"
A, B = [5, 6, 7, 8, 9], [20, 21, 22]


@dataclass
class Desk:
    """The queue as a gateway sees it, and workers on it."""

    url: str
    blobs: DirectoryBlobs
    lane: Lane
    settings: Settings
    engine: Any
    build: Any
    workers: list[Serving] = field(default_factory=list)

    async def submit(self, *jobs: NewJob) -> list[str]:
        accepted = await self.lane.submit(jobs)
        assert [one.error for one in accepted] == [None] * len(jobs)
        return [job.id for job in jobs]

    def job(self, *nodes: dict[str, Any], ids: list[int] | str = A, alone: bool = False, **more: Any) -> NewJob:
        own = {name: more.pop(name) for name in ("tokens", "attachment", "parents", "document") if name in more}
        graph = self.build.graph(MODEL, {"a": ids}, *(nodes or [self.logits]), options={"exact": alone}, **more)
        own.setdefault("document", graph.to_json().encode())
        return NewJob(new_job_id(), "ada", MODEL, alone=alone, **own)

    def generation(self, ids: list[int], new: int) -> NewJob:
        run = {"id": "r", "generate": {"max_new_tokens": new}, "invokes": [{"id": "a", "ids": ids}]}
        graph = self.build.graph(MODEL, {}, runs=[run], saves={"tokens": "$r.tokens"})
        return self.job(document=graph.to_json().encode())

    @property
    def logits(self) -> dict[str, Any]:
        return self.build.get("l", "lm_head:output", [":", -1])

    @asynccontextmanager
    async def worker(self, name: str = "w1", **changes: Any) -> AsyncIterator[Serving]:
        serving = Serving(self.engine, self.lane, name, self.settings.model_copy(update=changes))
        running = asyncio.create_task(serving.run())
        try:
            yield serving
        finally:
            serving.stop()
            await asyncio.wait_for(running, 20)

    async def ended(self, *ids: str, seconds: float = 20.0) -> dict[str, str]:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            states = await self.lane.states("ada", ids)
            if set(states.values()) <= ENDED:
                return states
            await asyncio.sleep(0.01)
        raise AssertionError(f"jobs did not end: {states}")

    async def state(self, id: str) -> str:
        return (await self.lane.states("ada", [id]))[id]

    async def until(self, id: str, state: str) -> None:
        while await self.state(id) != state:
            await asyncio.sleep(0.005)

    async def values(self, id: str) -> dict[str, torch.Tensor]:
        found = await self.lane.result("ada", id)
        return results.decode(b"".join([chunk async for chunk in self.lane.read(found)]))


@pytest.fixture
async def desk(redis_url: str, tmp_path: Path, gpt2: Any, build: Any) -> AsyncIterator[Desk]:
    client = connect(redis_url)
    blobs = DirectoryBlobs(tmp_path / "blobs")
    settings = Settings(model=MODEL, redis_url=redis_url, blobs=tmp_path / "blobs", cache=tmp_path / "cache")
    yield Desk(redis_url, blobs, Lane(client, blobs), settings, gpt2, build)
    await client.aclose()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], threading.Event]:
    """Make the operation ``exp`` take its time, and tell when it has begun."""

    def make(seconds: float) -> threading.Event:
        plain, begun = evaluate.run_op, threading.Event()

        def run_op(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == "exp":
                begun.set()
                time.sleep(seconds)
            return plain(name, *args, **kwargs)

        monkeypatch.setattr(evaluate, "run_op", run_op)
        return begun

    return make


def sleeper(build: Any) -> tuple[dict[str, Any], ...]:
    """Nodes of a job that computes ``exp`` in mid-forward."""
    get = build.get("h", "blocks.0:resid_post", [":", -1])
    return get, build.call("x", "exp", "$h"), build.get("l", "lm_head:output", [":", -1])


async def test_results_come_back_small_ones_inline_and_large_ones_as_blobs(desk):
    small = desk.job()
    large = desk.job(desk.build.get("l", "lm_head:output"), ids=list(range(256)))
    async with desk.worker():
        ids = await desk.submit(small, large)
        assert set((await desk.ended(*ids)).values()) == {"completed"}
    inline, blob = [await desk.lane.result("ada", id) for id in ids]
    assert inline.inline is not None
    assert blob.blob is not None
    assert blob.saves["l"].shape == (1, 256, 257)
    expected = desk.engine.run([desk.build.task(MODEL, {"a": A}, desk.logits)])[0].saved["l"]
    assert torch.allclose((await desk.values(small.id))["l"], expected, atol=1e-5)


async def test_tokens_and_attachments_that_the_gateway_sends_along_are_used(desk):
    graph = desk.build.graph(
        MODEL,
        {"a": A},
        desk.build.set("blocks.0:resid_post", "$v", [":", -1]),
        desk.build.get("h", "blocks.0:resid_post"),
        constants={"v": {"tensor": "t"}},
    ).to_dict()
    graph["runs"][0]["invokes"] = [{"id": "a", "text": "not what is tokenized"}]
    job = desk.job(
        document=json.dumps(graph).encode(),
        tokens=json.dumps({"not what is tokenized": B}).encode(),
        attachment=results.encode({"t": torch.full((48,), 2.0)}),
    )
    async with desk.worker():
        await desk.submit(job)
        await desk.ended(job.id)
    found = (await desk.values(job.id))["h"]
    assert found.shape == (1, 3, 48)
    assert found[0, -1].tolist() == [2.0] * 48


async def test_a_job_that_cannot_be_read_fails_alone(desk):
    bad = [
        desk.job(document=b"{nonsense"),
        desk.job(tokens=b'{"a": "ids"}'),
        desk.job(attachment=b"no tensors"),
        desk.job(document=desk.build.graph("another", {"a": A}, desk.logits).to_json().encode()),
        desk.job(ids=[1, 900]),
    ]
    good = desk.job()
    ids = await desk.submit(*bad, good)
    async with desk.worker():
        states = await desk.ended(*ids)
    assert states[good.id] == "completed"
    for job, kind in zip(bad[:3], (ProtocolError,) * 3, strict=True):
        with pytest.raises(kind):
            await desk.lane.result("ada", job.id)
    with pytest.raises(GraphError):
        await desk.lane.result("ada", bad[4].id)


async def test_a_job_of_a_newer_gateway_is_told_who_has_to_be_updated(desk):
    document = json.loads(desk.job().document) | {"protocol": [PROTOCOL[0], PROTOCOL[1] + 1]}
    newer, older = desk.job(document=json.dumps(document).encode()), desk.job()
    ids = await desk.submit(newer, older)
    async with desk.worker():
        assert list((await desk.ended(*ids)).values()) == ["failed", "completed"]
    with pytest.raises(VersionError, match=r"newer than the worker that got it; .* the workers before the gateway"):
        await desk.lane.result("ada", newer.id)


async def test_a_value_of_another_job_comes_from_memory_or_from_the_store(desk, monkeypatch):
    fetched = []
    plain = Lane.value

    async def value(self, job, parent):
        fetched.append(job.id)
        return await plain(self, job, parent)

    monkeypatch.setattr(Lane, "value", value)
    parent = desk.job(desk.build.get("h", "blocks.1:resid_post"))

    def child():
        return desk.job(
            desk.build.set("blocks.1:resid_post", "$v", [":", -1]),
            desk.build.get("r", "blocks.1:resid_post", [":", -1]),
            constants={"v": {"result": parent.id, "name": "h", "index": [":", 0]}},
            parents={parent.id: Source()},
        )

    near, far = child(), child()
    async with desk.worker("w1"):
        await desk.submit(near, parent)  # the child first
        await desk.ended(parent.id, near.id)
    assert not fetched
    async with desk.worker("w2"):
        await desk.submit(far)
        await desk.ended(far.id)
    assert fetched == [far.id]
    expected = (await desk.values(parent.id))["h"][:, 0]
    for job in (near, far):
        assert torch.equal((await desk.values(job.id))["r"], expected)


async def test_data_comes_from_the_store_once_and_then_from_memory(desk, monkeypatch):
    file = encode({"x": Tensor.of(np.full((1, 48), 2.0, np.float32))})
    digest = hashlib.sha256(file).hexdigest()
    uploads = Uploads(desk.lane._redis, desk.blobs)
    await uploads.receive("ada", digest, len(file), 0, chunks_of(file))
    blob = (await uploads.get("ada", digest)).blob
    nodes = desk.build.get("h", "blocks.0:resid_post", [":", -1]), desk.build.call("sum", "add", "$h", "$d")
    asked = []
    fetch = Lane.data

    async def counted(self, job, name):
        asked.append(name)
        return await fetch(self, job, name)

    monkeypatch.setattr(Lane, "data", counted)
    async with desk.worker():
        for _ in range(3):
            job = dataclasses.replace(desk.job(*nodes, constants={"d": {"data": digest}}), data={digest: blob})
            [id] = await desk.submit(job)
            assert (await desk.ended(id))[id] == "completed"
            found = await desk.values(id)
            torch.testing.assert_close(found["sum"], found["h"] + 2.0)
    assert asked == [digest]


async def test_a_failing_job_hands_in_its_error_with_the_author_s_line(desk):
    bad = desk.job(
        desk.build.get("h", "blocks.0:resid_post"),
        desk.build.call("x", "solve", "$h", "$h"),
        lines={"x": "study.py:3"},
    )
    async with desk.worker():
        await desk.submit(bad)
        await desk.ended(bad.id)
    with pytest.raises((ExecutionError, GraphError)) as caught:
        await desk.lane.result("ada", bad.id)
    assert (caught.value.node, caught.value.file, caught.value.line) == ("x", "study.py", 3)


async def test_a_cancelled_job_stops_while_it_runs_and_the_others_complete(desk, slow):
    begun = slow(0.5)
    gone, stays = desk.job(*sleeper(desk.build)), desk.job()
    await desk.submit(gone, stays)
    async with desk.worker():
        await asyncio.to_thread(begun.wait, 10)
        assert await desk.lane.cancel("ada", gone.id) == "cancelled"
        states = await desk.ended(gone.id, stays.id)
    assert states == {gone.id: "cancelled", stays.id: "completed"}


async def test_progress_is_told_to_the_owner(desk, monkeypatch):
    told = []

    async def note(self, id, worker, type, data):
        told.append((id, type, data))
        return True

    monkeypatch.setattr(Lane, "note", note)
    graph = desk.build.graph(
        MODEL,
        {"a": A, "b": B},
        desk.build.get("late", "blocks.3:resid_post", [":", -1]),
        desk.build.set("blocks.0:resid_post", "$late", [":", -1], invoke="b"),
        desk.build.get("l", "lm_head:output", invoke="b"),
    )
    job = desk.job(document=graph.to_json().encode())
    async with desk.worker():
        await desk.submit(job)
        await desk.ended(job.id)
    assert told == [(job.id, "progress", {"done": done, "total": 2}) for done in (1, 2)]


async def test_tokens_are_told_to_the_owner_in_order_while_the_job_runs_and_before_it_ends(desk):
    each = {
        "nodes": [
            desk.build.get("h", "blocks.1:resid_post", [":", -1], invoke="a"),
            desk.build.call("n", "norm", "$h"),
        ],
        "emit": {"norm": "$n"},
        "out": {"norm": "$n"},
    }
    run = {
        "id": "r",
        "generate": {"max_new_tokens": 120},
        "invokes": [{"id": "a", "ids": A}],
        "each": each,
    }
    document = {
        "protocol": [1, 0],
        "model": {"id": MODEL},
        "runs": [run],
        "nodes": [],
        "saves": {"tokens": "$r.tokens", "norm": "$r.norm"},
    }
    job = desk.job(document=json.dumps(document).encode())
    async with desk.worker():
        await desk.submit(job)
        assert set((await desk.ended(job.id)).values()) == {"completed"}
    client = connect(desk.url)
    events = [event for event in await EventLog(client).read("ada", START) if event.job == job.id]
    await client.aclose()
    told = [one for event in events if event.type == "values" for one in event.data["values"]]
    kinds = [event.type for event in events if event.type != "progress"]
    assert kinds[-1] == "completed"
    assert kinds.count("values") > 1  # in several parts: while it ran
    found = await desk.values(job.id)
    assert [one["step"] for one in told[:-1]] == list(range(120))
    assert [one["tokens"][0] for one in told[:-1]] == found["tokens"][0].tolist()
    assert [one["values"]["norm"] for one in told[:-1]] == pytest.approx(found["norm"].tolist())
    assert told[-1] == {"run": "r", "lengths": [120], "reasons": ["length"]}


async def test_leases_are_kept_while_a_batch_takes_longer_than_they_last(desk, slow):
    slow(1.6)
    job = desk.job(*sleeper(desk.build))
    await desk.submit(job)
    async with desk.worker(worker_lease_seconds=0.5):
        await desk.until(job.id, "running")
        for _ in range(12):
            await asyncio.sleep(0.1)
            assert await desk.lane.reclaim(MODEL) == []
        await desk.ended(job.id)
    assert (await desk.lane.status("ada", job.id)).attempts == 1


async def test_jobs_are_read_while_a_forward_runs_and_go_back_if_the_worker_stops_before_theirs(desk, slow):
    begun = slow(0.6)
    first, second, third = [desk.job(*sleeper(desk.build), ids=[1, 2, at]) for at in range(3)]
    async with desk.worker() as serving:
        await desk.submit(first)
        await desk.ended(first.id)
        begun.clear()
        await desk.submit(second)
        await asyncio.to_thread(begun.wait, 10)
        await desk.submit(third)
        await desk.until(third.id, "running")
        assert await desk.state(second.id) == "running"
        serving.stop()
    assert [await desk.state(one.id) for one in (second, third)] == ["completed", "queued"]
    async with desk.worker("w2"):
        assert set((await desk.ended(third.id)).values()) == {"completed"}


async def test_asked_to_stop_it_finishes_what_it_began_and_gives_back_the_rest(desk, slow, monkeypatch):
    begun = slow(0.4)
    jobs = [desk.job(*sleeper(desk.build), ids=[1, 2, at]) for at in range(3)]
    await desk.submit(*jobs)
    monkeypatch.setattr(desk.engine, "limits", BatchLimits(tokens=1, rows=1))
    async with desk.worker() as serving:
        await asyncio.to_thread(begun.wait, 10)
        serving.stop()
    states = [await desk.state(job.id) for job in jobs]
    assert sorted(states) == ["completed", "queued", "queued"]
    back = [job.id for job, state in zip(jobs, states, strict=True) if state == "queued"]
    assert [(await desk.lane.status("ada", id)).attempts for id in back] == [0, 0]


async def test_a_batch_that_does_not_end_in_time_goes_back_to_the_queue(desk, slow):
    begun = slow(0.5)
    job = desk.job(*sleeper(desk.build))
    await desk.submit(job)
    async with desk.worker(worker_stop_seconds=0.0) as serving:
        await asyncio.to_thread(begun.wait, 10)
        serving.stop()
    assert await desk.state(job.id) == "queued"
    async with desk.worker("w2"):
        assert set((await desk.ended(job.id)).values()) == {"completed"}


async def test_a_trace_does_not_wait_for_somebodys_generation_and_a_generation_joins_it(desk, monkeypatch):
    """The first generation goes on until both others have ended."""
    sizes, over = [], asyncio.Event()
    whole = desk.engine.model.whole

    def counted(inputs, *args, **kwargs):
        sizes.append(inputs["input_ids"].shape[0])
        time.sleep(0 if over.is_set() else 0.01)
        return whole(inputs, *args, **kwargs)

    monkeypatch.setattr(desk.engine.model, "whole", counted)
    long, trace, short = desk.generation(A, 100), desk.job(), desk.generation(B, 3)
    async with desk.worker():
        await desk.submit(long)
        while len(sizes) < 3:
            await asyncio.sleep(0.001)
        await desk.submit(trace, short)
        await desk.ended(trace.id, short.id)
        over.set()
        await desk.ended(long.id)
    client = connect(desk.url)
    events = [one for one in await EventLog(client).read("ada", START) if one.type == "completed"]
    await client.aclose()
    assert events[-1].job == long.id
    assert max(sizes) == 2
    assert len(sizes) == 100 + 1  # a forward over the second prompt is the only one of its own
    expected = desk.engine.run([desk.build.task(MODEL, {"a": A}, desk.logits)])[0].saved["l"]
    assert torch.allclose((await desk.values(trace.id))["l"], expected, atol=1e-5)
    for job, ids, new in ((long, A, 100), (short, B, 3)):
        assert (await desk.values(job.id))["tokens"].tolist() == plain(desk.engine, [ids], new)[0]


async def going(serving: Serving) -> None:
    """Wait until somebody is on the floor who has begun."""
    while serving._floor is None or not serving._floor._generations.begun:
        await asyncio.sleep(0.001)


async def test_asked_to_stop_it_finishes_the_generations_that_it_began(desk, monkeypatch):
    monkeypatch.setattr(desk.engine, "limits", BatchLimits(rows=1))
    begun, waits = desk.generation(A, 100), desk.generation(B, 100)
    await desk.submit(begun, waits)
    async with desk.worker() as serving:
        await going(serving)
        serving.stop()
    assert [await desk.state(one.id) for one in (begun, waits)] == ["completed", "queued"]


async def test_asked_to_stop_it_gives_back_at_once_what_it_has_not_begun_and_finishes_the_rest_after_that(
    desk, monkeypatch
):
    monkeypatch.setattr(desk.engine, "limits", BatchLimits(rows=1))
    begun, waits = desk.generation(A, 200), desk.generation(B, 200)
    whole = desk.engine.model.whole
    monkeypatch.setattr(desk.engine.model, "whole", lambda *given, **more: (time.sleep(0.01), whole(*given, **more))[1])
    await desk.submit(begun, waits)
    async with desk.worker() as serving:
        await going(serving)
        serving.stop()
        await desk.until(waits.id, "queued")
        assert await desk.state(begun.id) == "running"
    assert await desk.state(begun.id) == "completed"
    assert (await desk.lane.status("ada", waits.id)).attempts == 0


@asynccontextmanager
async def process_of(desk: Desk, folder: Path) -> AsyncIterator[tuple[subprocess.Popen[str], Registry]]:
    """A worker as an operator starts it, once it is ready."""
    command = [sys.executable, "-m", "telepatch", "worker", "--model", MODEL, "--redis-url", desk.url]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TELEPATCH_BLOBS": str(folder / "blobs")}
    client = connect(desk.url)
    registry = Registry(client)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True)
    try:
        while not await registry.workers(MODEL):
            assert process.poll() is None
            await asyncio.sleep(0.1)
        yield process, registry
    finally:
        process.kill()
        process.communicate()
        await client.aclose()


def lasting(desk: Desk) -> NewJob:
    """A job that takes some seconds, on whatever machine: many products of large matrices, one after the other."""
    steps = [desk.build.call(f"m{at}", "matmul", f"$m{at - 1}" if at else "$w", "$w") for at in range(150)]
    nodes = [desk.build.get("h", "blocks.0:resid_post", [":", -1]), *steps, desk.build.call("n", "norm", "$m149")]
    attachment = results.encode({"w": torch.zeros(1500, 1500)})
    saves = {"n": "$n", "h": "$h"}
    return desk.job(*nodes, constants={"w": {"tensor": "w"}}, attachment=attachment, saves=saves)


async def test_asked_through_redis_it_says_that_it_drains_finishes_and_ends(desk, tmp_path):
    async with process_of(desk, tmp_path) as (process, registry):
        [worker] = await registry.workers(MODEL)
        assert worker.state == "ready"
        job = lasting(desk)
        [id] = await desk.submit(job)
        await desk.until(id, "running")
        await registry.drain(worker.id)
        until = time.monotonic() + 20
        while [one.state for one in await registry.workers(MODEL)] != ["draining"] and time.monotonic() < until:
            await asyncio.sleep(0.02)
        assert await desk.state(id) == "running"
        late = desk.job()
        await desk.submit(late)
        assert await asyncio.to_thread(process.wait, 60) == 0
        assert await desk.state(id) == "completed"
        assert await desk.state(late.id) == "queued"
        assert await registry.workers(MODEL) == []


async def test_asked_twice_it_ends_at_once_and_its_jobs_are_queued_again(desk, tmp_path):
    async with process_of(desk, tmp_path) as (process, registry):
        job = lasting(desk)
        await desk.submit(job)
        await desk.until(job.id, "running")
        process.send_signal(signal.SIGTERM)
        while (await registry.workers(MODEL))[0].state != "draining":
            await asyncio.sleep(0.01)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 5) == 0
        assert await desk.state(job.id) == "queued"


async def test_a_mistake_of_ours_leaves_the_job_to_the_next_try(desk, monkeypatch):
    plain, calls = Floor.turn, []

    def turn(self):
        calls.append(len(self.jobs))
        if len(calls) == 1:
            raise KeyError("a mistake")
        plain(self)

    monkeypatch.setattr(Floor, "turn", turn)
    job = desk.job()
    async with desk.worker(worker_lease_seconds=0.5):
        await desk.submit(job)
        assert set((await desk.ended(job.id)).values()) == {"completed"}
    assert calls == [1, 1]
    assert (await desk.lane.status("ada", job.id)).attempts == 2


async def test_a_result_that_cannot_be_stored_fails_with_the_reason(desk, monkeypatch):
    async def put(self, name, data):
        raise OSError("disk full")

    monkeypatch.setattr(DirectoryBlobs, "put", put)
    large = desk.job(desk.build.get("l", "lm_head:output"), ids=list(range(256)))
    async with desk.worker():
        await desk.submit(large)
        await desk.ended(large.id)
    with pytest.raises(ExecutionError, match="could not be stored: disk full"):
        await desk.lane.result("ada", large.id)


async def test_housekeeping_fetches_models_by_their_card_and_nothing_else(desk):
    house = housekeeping(desk.settings, desk.blobs)
    with house.run():
        ids = [await asyncio.to_thread(house.enqueue, "fetch_model", name) for name in (MODEL, "no-such")]
        while {await asyncio.to_thread(house.state, id) for id in ids} & {"queued", "started"}:
            await asyncio.sleep(0.05)
        assert [await asyncio.to_thread(house.state, id) for id in ids] == ["finished", "failed"]


def test_a_worker_without_a_model_or_with_one_that_is_not_there_says_so():
    with pytest.raises(BadArgument, match="TELEPATCH_MODEL"):
        card_of(Settings())
    with pytest.raises(BadArgument, match=r"there are: .*gpt2-random"):
        card_of(Settings(model="no-such"))
    assert card_of(Settings(model=MODEL, worker_device="cpu")).device == "cpu"


async def test_the_process_publishes_its_model_serves_it_and_ends_in_order(desk, tmp_path):
    command = [sys.executable, "-m", "telepatch", "worker", "--model", MODEL, "--redis-url", desk.url]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TELEPATCH_BLOBS": str(tmp_path / "blobs")}
    client = connect(desk.url)
    registry = Registry(client)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True)
    try:
        while not await registry.workers(MODEL):
            assert process.poll() is None
            await asyncio.sleep(0.1)
        card = await registry.card(MODEL)
        assert card == desk.engine.card
        assert await registry.tokenizer(card.tokenizer) == desk.engine.loaded.tokenizer_json
        assert await registry.loading(MODEL) == []
        [job] = await desk.submit(desk.job())
        await desk.ended(job)
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.to_thread(process.communicate, timeout=20)
        assert process.returncode == 0
        assert await registry.workers(MODEL) == []
    finally:
        process.kill()
        process.wait()
        await client.aclose()
    records = [json.loads(line) for line in said.splitlines()]
    assert {"worker_ready", "jobs_taken", "job_ended", "worker_ended"} <= {one["event"] for one in records}
    assert {one["person"] for one in records if "person" in one} == {"ada"}


def test_a_worker_that_was_started_otherwise_than_its_card_needs_is_told_what_would_work():
    def launched(ranks: int) -> Torchrun:
        return Torchrun(rank=0, world_size=ranks, local_rank=0, local_world_size=ranks)

    sharded, alone = Settings(model="llama-tp2-random"), Settings(model=MODEL)
    two = "torchrun --nproc-per-node 2 -m telepatch worker --model llama-tp2-random"
    for found in (None, launched(4)):
        with pytest.raises(BadArgument, match=f"has tp_size = 2, and was started with .*; this works: {two}"):
            check_launch(card_of(sharded), sharded, found)
    with pytest.raises(BadArgument, match=f"with 2 ranks; this works: telepatch worker --model {MODEL}"):
        check_launch(card_of(alone), alone, launched(2))
    assert check_launch(card_of(sharded), sharded, launched(2)) == launched(2)
    assert check_launch(card_of(alone), alone, None) is None
    assert check_launch(card_of(alone), alone, launched(1)) is None
