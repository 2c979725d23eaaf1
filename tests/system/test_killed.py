"""A worker is killed in the middle of a fit: another one goes on from the last checkpoint, and nobody notices."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.worker.test_fit import DATA, SAVED, probe
from tests.worker.training import MODEL, task, trained

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import connect
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_protocol.jobs import ENDED, new_job_id
from telepatch_worker import checkpoints, results
from telepatch_worker.engine import Engine
from telepatch_worker.load import load

MODELS = Path(__file__).parents[2] / "models"


def worker(url: str, folder: Path) -> subprocess.Popen[bytes]:
    """A worker as an operator starts it."""
    own = {
        "TELEPATCH_MODEL": MODEL,
        "TELEPATCH_MODELS": str(MODELS),
        "TELEPATCH_REDIS_URL": url,
        "TELEPATCH_BLOBS": str(folder / "blobs"),
        "TELEPATCH_CACHE": str(folder / "cache"),
        "TELEPATCH_WORKER_LEASE_SECONDS": "1",
        "TELEPATCH_WORKER_THREADS": "1",
    }
    command = [sys.executable, "-P", "-m", "telepatch", "worker"]
    return subprocess.Popen(command, env={**os.environ, **own}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
async def test_a_fit_outlives_the_worker_that_runs_it(redis_url: str, tmp_path: Path) -> None:
    engine = Engine(load(MODELS / f"{MODEL}.toml", cache=tmp_path / "cache"))
    one = task(probe(steps=1500, checkpoint_every=25), saves=SAVED, constants=DATA)
    torch.set_num_threads(1)
    whole = trained(engine, one)
    engine.close()
    client = connect(redis_url)
    blobs = DirectoryBlobs(tmp_path / "blobs")
    lane = Lane(client, blobs)
    first = worker(redis_url, tmp_path)
    second: subprocess.Popen[bytes] | None = None
    try:
        document, attachment = one.graph.to_json().encode(), results.encode(one.attachment)
        job = NewJob(new_job_id(), "ada", MODEL, document=document, attachment=attachment, lane="long")
        await lane.submit([job])
        name = None
        until = time.monotonic() + 120
        while name is None and time.monotonic() < until:
            name = await client.hget(f"telepatch:job:{job.id}", "checkpoint")
            await asyncio.sleep(0.02)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert (await lane.states("ada", [job.id]))[job.id] == "running"
        stored = (await client.hget(f"telepatch:job:{job.id}", "checkpoint")).decode()
        [held] = checkpoints.decode((blobs.directory / stored).read_bytes()).values()
        assert 0 < held.plain["step"] < 1500
        second = worker(redis_url, tmp_path)
        while (await lane.states("ada", [job.id]))[job.id] not in ENDED and time.monotonic() < until + 60:
            await asyncio.sleep(0.05)
        found = await lane.result("ada", job.id)
        saved = results.decode(b"".join([chunk async for chunk in lane.read(found)]))
    finally:
        for process in (first, second):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(30)
        await client.aclose()
    assert torch.equal(saved["W"], whole["W"])
    assert torch.equal(saved["loss"], whole["loss"])
