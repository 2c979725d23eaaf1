"""A backup of a service that runs, and a restore on an empty machine."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.blobs import DirectoryBlobs, read_all
from telepatch_broker.connection import connect, connect_sync
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_broker.launcher import embedded_valkey
from telepatch_broker.shared import check_shared
from telepatch_protocol.errors import BadArgument, Conflict, Unavailable
from telepatch_protocol.jobs import INLINE_LIMIT, SavedMeta, new_job_id
from telepatch_server.backup import backup, restore

LARGE = bytes(INLINE_LIMIT + 1)


@dataclass
class Machine:
    """A queue and a blob store of their own."""

    url: str
    client: redis.asyncio.Redis
    blobs: DirectoryBlobs

    @property
    def lane(self) -> Lane:
        return Lane(self.client, self.blobs)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[str, str]]:
    with embedded_valkey(tmp_path / "one") as one, embedded_valkey(tmp_path / "two") as two:
        yield one, two


@asynccontextmanager
async def machine(url: str, folder: Path) -> AsyncIterator[Machine]:
    client = connect(url)
    try:
        yield Machine(url, client, DirectoryBlobs(folder))
    finally:
        await client.aclose()


def job(**more: bytes) -> NewJob:
    return NewJob(new_job_id(), "ada", "tiny", b"{}", **more)


async def busy(one: Machine) -> tuple[NewJob, NewJob, NewJob, NewJob]:
    """Jobs in many states: with a small result, with a large one, in a worker's hands, queued with an attachment."""
    await check_shared(one.blobs, one.client)
    small, large, running, queued = job(), job(), job(), job(attachment=LARGE)
    await one.lane.submit([small, large, running, queued])
    taken = await one.lane.take("tiny", "w1", max_jobs=3, lease_seconds=1)
    assert [found.id for found in taken] == [small.id, large.id, running.id]
    for done, result in ((small, b"small"), (large, LARGE)):
        await one.lane.complete(done.id, "w1", saves={"x": SavedMeta(shape=(1,), dtype="float32")}, result=result)
    return small, large, running, queued


async def test_jobs_and_results_are_there_again_on_an_empty_machine(machines: tuple[str, str], tmp_path: Path) -> None:
    said: list[str] = []
    async with machine(machines[0], tmp_path / "blobs1") as one, machine(machines[1], tmp_path / "blobs2") as two:
        small, large, running, queued = await busy(one)
        await one.client.set("telepatch:lasting", "x", ex=5000)
        await backup(one.url, one.blobs, tmp_path / "all.tar", said.append)
        assert await one.client.exists(keys.BACKUP) == 0
        assert (tmp_path / "all.tar").stat().st_mode & 0o777 == 0o600
        await restore(tmp_path / "all.tar", two.url, two.blobs, said.append)
        await check_shared(two.blobs, two.client)
        assert 0 < await two.client.ttl("telepatch:lasting") <= 5000
        assert (await two.lane.result("ada", small.id)).inline == b"small"
        found = await two.lane.result("ada", large.id)
        assert found.blob is not None
        assert await read_all(two.blobs, found.blob) == LARGE
        await asyncio.sleep(1.1)  # the lease of a worker that is on no machine any more
        await two.lane.reclaim("tiny")
        [again] = await two.lane.take("tiny", "w2", max_jobs=1)
        assert (again.id, again.attempt) == (running.id, 2)
        [next] = await two.lane.take("tiny", "w2")
        assert next.id == queued.id
        assert next.attachment_blob is not None
        assert await read_all(two.blobs, next.attachment_blob) == LARGE


async def test_blobs_that_the_queue_speaks_of_stay_while_a_backup_copies_them(
    machines: tuple[str, str], tmp_path: Path
) -> None:
    async with machine(machines[0], tmp_path / "blobs1") as one, machine(machines[1], tmp_path / "blobs2") as two:
        _, _, _, queued = await busy(one)
        attached = (await one.client.hget(keys.job(queued.id), "uses")).decode()
        whole = one.blobs.list

        async def list_after_a_while(prefix: str = "") -> AsyncIterator[str]:
            """What the service does between the snapshot and the copies."""
            await one.lane.cancel("ada", queued.id)
            await one.client.zadd(keys.GARBAGE, {attached: 0})
            await one.lane.expire_results()
            async for name in whole(prefix):
                yield name

        one.blobs.list = list_after_a_while  # type: ignore[method-assign]
        await backup(one.url, one.blobs, tmp_path / "all.tar", lambda text: None)
        await one.lane.expire_results()
        assert attached not in [name async for name in whole()]
        await restore(tmp_path / "all.tar", two.url, two.blobs, lambda text: None)
        assert await read_all(two.blobs, attached) == LARGE


async def test_nothing_is_mixed_with_what_is_there_already(machines: tuple[str, str], tmp_path: Path) -> None:
    async with machine(machines[0], tmp_path / "blobs1") as one, machine(machines[1], tmp_path / "blobs2") as two:
        await busy(one)
        await backup(one.url, one.blobs, tmp_path / "all.tar", lambda text: None)
        await two.client.set("something", "else")
        with pytest.raises(Conflict, match="has 1 keys already"):
            await restore(tmp_path / "all.tar", two.url, two.blobs, lambda text: None)
        await two.client.delete("something")
        await two.blobs.put("old", b"")
        with pytest.raises(Conflict, match="'old' already"):
            await restore(tmp_path / "all.tar", two.url, two.blobs, lambda text: None)
        with pytest.raises(BadArgument, match="there already"):
            await backup(one.url, one.blobs, tmp_path / "all.tar", lambda text: None)
        assert await two.client.dbsize() == 0


async def test_a_damaged_backup_is_refused_before_anything_is_written(
    machines: tuple[str, str], tmp_path: Path
) -> None:
    async with machine(machines[0], tmp_path / "blobs1") as one, machine(machines[1], tmp_path / "blobs2") as two:
        await busy(one)
        file = tmp_path / "all.tar"
        await backup(one.url, one.blobs, file, lambda text: None)
        with tarfile.open(file) as archive:
            place = next(entry for entry in archive if entry.name.startswith("blobs/out-")).offset_data
        data = bytearray(file.read_bytes())
        data[place + 1000] ^= 1
        (tmp_path / "bad.tar").write_bytes(data)
        (tmp_path / "half.tar").write_bytes(data[: place + 1000])
        (tmp_path / "none.tar").write_bytes(b"nothing of the kind")
        for name, says in (("bad", "is damaged: blobs/out-"), ("half", "only a part"), ("none", "is no backup")):
            with pytest.raises(BadArgument, match=says):
                await restore(tmp_path / f"{name}.tar", two.url, two.blobs, lambda text: None)
        assert await two.client.dbsize() == 0


async def test_a_queue_that_gives_no_snapshot_says_why(machines: tuple[str, str], tmp_path: Path) -> None:
    with connect_sync(machines[0]) as client:
        client.acl_setuser("default", enabled=True, nopass=True, commands=["+@all", "-sync"], keys=["*"])
    with pytest.raises(Unavailable, match="no permissions to run the 'sync' command"):
        await backup(machines[0], DirectoryBlobs(tmp_path / "blobs"), tmp_path / "all.tar", lambda text: None)
    assert list(tmp_path.glob("*.tar")) == []


def test_the_commands_do_it_for_a_home_folder(tmp_path: Path) -> None:
    async def fill() -> str:
        with embedded_valkey(tmp_path / "old" / "valkey") as url:
            async with machine(url, tmp_path / "old" / "blobs") as one:
                return (await busy(one))[3].id

    async def look() -> list[str]:
        with embedded_valkey(tmp_path / "new" / "valkey") as url:
            async with machine(url, tmp_path / "new" / "blobs") as one:
                return [found.id for found in await one.lane.take("tiny", "w2", max_jobs=10)]

    queued = asyncio.run(fill())
    for words in (("backup", "all.tar", "--home", "old"), ("restore", "all.tar", "--home", "new")):
        command = [sys.executable, "-m", "telepatch", *words]
        told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=dict(os.environ))
        assert told.returncode == 0, told.stderr
    time.sleep(0.1)
    assert queued in asyncio.run(look())
