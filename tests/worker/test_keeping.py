"""Checkpoints on their way: where they cannot be written the job goes on, and the next one is written again."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from telepatch_broker import blobs as stores
from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import connect
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_protocol.errors import Unavailable
from telepatch_protocol.jobs import new_job_id
from telepatch_worker.keeping import Keeper


@pytest.fixture
async def lane(redis_url: str, tmp_path: Path) -> AsyncIterator[Lane]:
    client = connect(redis_url)
    yield Lane(client, DirectoryBlobs(tmp_path / "blobs"))
    await client.aclose()


async def test_a_checkpoint_for_which_there_is_no_room_is_told_and_the_next_one_counts(
    lane: Lane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = NewJob(new_job_id(), "ada", "gpt2", b"{}", lane="long")
    await lane.submit([job])
    [taken] = await lane.take("gpt2", "w1")
    raised: list[Exception] = []
    begun: list[asyncio.Task[None]] = []

    async def safely(work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            raised.append(error)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    keeper = Keeper(lane, "w1", lambda work: begun.append(asyncio.create_task(safely(work))))
    with monkeypatch.context() as patched:
        patched.setattr(stores, "_publish", full)
        keeper.keep(job.id, b"so far", 1.0)
        assert await keeper.written(job.id) is False
        await asyncio.gather(*begun)
    assert [type(error) for error in raised] == [Unavailable]
    assert "takes nothing: No space left on device" in str(raised[0])
    assert list((tmp_path / "blobs").iterdir()) == []
    assert await lane.last_checkpoint(taken) == b""
    keeper.keep(job.id, b"further", 2.0)
    assert await keeper.written(job.id)
    await asyncio.gather(*begun)
    await lane.give_back("w1", [job.id])
    [again] = await lane.take("gpt2", "w2")
    assert (await lane.last_checkpoint(again), again.spent) == (b"further", 2.0)
