"""A model that two processes hold together: the same numbers as one process has, and either may be killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tests.ranks.jobs import everything, long_fit

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import connect
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_broker.registry import Registry, WorkerInfo
from telepatch_protocol.jobs import ENDED, new_job_id
from telepatch_worker import results
from telepatch_worker.cards import read_card
from telepatch_worker.engine import Engine, Task
from telepatch_worker.load import load
from telepatch_worker.serving import Serving
from telepatch_worker.settings import Settings

ROOT = Path(__file__).parents[2]
CARD = ROOT / "models" / "llama-tp2-random.toml"
MODEL = CARD.stem
TOLERANCE = 1e-5
TORCHRUN = [sys.executable, "-P", "-m", "torch.distributed.run", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
def test_two_ranks_give_what_one_process_gives(cache: Path, tmp_path: Path):
    said = tmp_path / "said.json"
    program = [*TORCHRUN, "-m", "tests.ranks.parity", str(CARD), str(cache), str(said)]
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(program, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(said.read_text())
    assert {name: error for name, error in found["errors"].items() if error} == {}
    assert {name: off for name, off in found["differences"].items() if off > TOLERANCE} == {}
    assert found["differences"].keys() == everything(MODEL).keys()
    assert found["card"], "the card differs from that of the model in one process"
    assert found["local"] < 0.55, "a rank holds more than its half"


@contextmanager
def pair(url: str, folder: Path, cache: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Two ranks as an operator starts them."""
    own = {
        "TELEPATCH_MODELS": str(CARD.parent),
        "TELEPATCH_REDIS_URL": url,
        "TELEPATCH_BLOBS": str(folder / "blobs"),
        "TELEPATCH_CACHE": str(cache),
        "TELEPATCH_WORKER_LEASE_SECONDS": "1",
        "TELEPATCH_WORKER_THREADS": "1",
    }
    command = [*TORCHRUN, "-m", "telepatch", "worker", "--model", MODEL]
    with (folder / f"said-{time.monotonic_ns()}").open("w") as said:
        started = subprocess.Popen(command, env={**os.environ, **own}, stdout=said, stderr=said)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.terminate()
        started.wait(60)


def ranks_of(started: subprocess.Popen[bytes], info: WorkerInfo) -> tuple[psutil.Process, psutil.Process]:
    """Rank 0 and rank 1."""
    children = {one.pid: one for one in psutil.Process(started.pid).children()}
    [other] = [one for pid, one in children.items() if pid != info.pid]
    return children[info.pid], other


async def until(told: Callable[[], Any], seconds: float = 120) -> Any:
    """What a question gives once it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := await told()):
        assert time.monotonic() < deadline, "it took too long"
        await asyncio.sleep(0.05)
    return found


def submitted(task: Task, lane: str) -> NewJob:
    document, attachment = task.graph.to_json().encode(), results.encode(task.attachment)
    return NewJob(new_job_id(), "ada", MODEL, document=document, attachment=attachment, lane=lane)


@pytest.mark.slow
async def test_either_rank_may_be_killed_and_another_worker_goes_on(redis_url: str, cache: Path, tmp_path: Path):
    task = long_fit(MODEL)
    engine = Engine(load(read_card(CARD).model_copy(update={"tp_size": 1}), cache=cache))
    read = everything(MODEL)["read mlp_act"]
    [whole, traced] = engine.run([task, read])
    assert whole.saved is not None
    assert traced.saved is not None
    client = connect(redis_url)
    lane, registry = Lane(client, DirectoryBlobs(tmp_path / "blobs")), Registry(client)
    job, trace = submitted(task, "long"), submitted(read, "batch")

    async def begun(worker: str) -> bool:
        """Whether a worker has the job in hand, and has come further: two that die without that are too many."""
        holder, kept = await client.hmget(f"telepatch:job:{job.id}", "worker", "checkpoint")
        return kept not in (None, *earlier) and holder == worker.encode()

    async def ended(id: str) -> bool:
        return (await lane.states("ada", [id]))[id] in ENDED

    async def saved(id: str) -> dict[str, torch.Tensor]:
        await until(lambda: ended(id))
        return results.decode(b"".join([chunk async for chunk in lane.read(await lane.result("ada", id))]))

    serving: asyncio.Task[None] | None = None
    earlier: list[bytes] = []
    one = Serving(engine, lane, "one-process", Settings(worker_lease_seconds=5, worker_slice_seconds=600))
    try:
        await lane.submit([job])
        for victim in (1, 0):
            with pair(redis_url, tmp_path, cache) as started:
                [info] = await until(lambda: registry.workers(MODEL))
                assert info.tp_size == 2
                if victim:
                    await lane.submit([trace])
                    close(await saved(trace.id), traced.saved, TOLERANCE)
                both = ranks_of(started, info)
                await until(lambda info=info: begun(info.id))
                earlier.append(await client.hget(f"telepatch:job:{job.id}", "checkpoint"))
                os.kill(both[victim].pid, signal.SIGKILL)
                _, alive = psutil.wait_procs(both, timeout=5)
                assert not alive, f"rank {1 - victim} did not end with rank {victim}"
                assert started.wait(20) != 0
            assert not await ended(job.id)
            await client.delete(f"telepatch:worker:{info.id}")
        serving = asyncio.create_task(one.run())
        close(await saved(job.id), whole.saved, 1e-3)
    finally:
        one.stop()
        if serving is not None:
            await serving
        await client.aclose()
        engine.close()


def close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float) -> None:
    for name, value in wanted.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance * scale)
