"""``telepatch quarantine`` as an operator types it, on a real queue with a job that two workers died of."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import connect
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_protocol.jobs import new_job_id
from telepatch_server.quarantine import app


@pytest.fixture
def dead(redis_url: str, tmp_path: Path) -> str:
    """A job in quarantine."""
    id = new_job_id()

    async def die() -> None:
        client = connect(redis_url)
        lane = Lane(client, DirectoryBlobs(tmp_path))
        await lane.submit([NewJob(id, "ada", "gpt2", b'{"protocol": [1, 0]}', attachment=b"xyz")])
        for worker in ("w1", "w2"):
            await lane.take("gpt2", worker, lease_seconds=0.01)
            await asyncio.sleep(0.03)
            await lane.reclaim("gpt2")
        await client.aclose()

    asyncio.run(die())
    return id


@pytest.fixture
def run(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TELEPATCH_REDIS_URL", redis_url)
    monkeypatch.setenv("TELEPATCH_BLOBS", str(tmp_path))

    def typed(*words: str) -> Result:
        return CliRunner().invoke(app, list(words))

    return typed


def test_an_empty_one_says_so(run) -> None:
    told = run("list")
    assert (told.exit_code, told.stdout) == (0, "nothing is there\n")


def test_it_lists_and_shows_a_job_with_the_workers_that_died(run, dead: str) -> None:
    listed = run("list").stdout
    assert [dead, "ada", "gpt2"] == listed.split()[1:]
    shown = run("show", dead).stdout
    assert f"job        {dead}" in shown
    assert "20 bytes; show --document" in shown
    assert "tensors    3 bytes" in shown
    assert "w1 died, seen 20" in shown
    assert "w2 died, seen 20" in shown
    assert json.loads(run("show", dead, "--document").stdout) == {"protocol": [1, 0]}


def test_a_released_job_is_queued_again_and_is_not_there_any_more(run, dead: str, redis_url: str, tmp_path) -> None:
    again = run("release", dead).stdout.strip()
    assert run("list").stdout == "nothing is there\n"

    async def state() -> str:
        client = connect(redis_url)
        found = await Lane(client, DirectoryBlobs(tmp_path)).status("ada", again)
        await client.aclose()
        return found.state

    assert asyncio.run(state()) == "queued"


def test_a_dropped_job_is_gone_and_the_next_asking_names_it(run, dead: str) -> None:
    assert run("drop", dead).stdout == f"dropped {dead}\n"
    told = run("show", dead)
    assert told.exit_code == 2
    assert f"there is no job {dead} in quarantine" in told.stderr


def test_an_address_without_a_queue_is_a_usage_error(run) -> None:
    told = run("list", "--redis-url", "nonsense")
    assert told.exit_code == 2
    assert "no address of Redis" in told.stderr
