"""Uploads: in parts, looked at before they count, owned, counted, and kept for jobs that were promised them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import redis.asyncio

from telepatch_broker import data as module
from telepatch_broker import keys
from telepatch_broker.blobs import DirectoryBlobs, read_all
from telepatch_broker.data import Uploads
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_protocol.data import Column, Upload
from telepatch_protocol.data_files import encode
from telepatch_protocol.errors import BadArgument, Conflict, NotFound, PayloadTooLarge, ProtocolError
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.tensors import Tensor

DATA = encode({"x": Tensor.of(np.arange(12.0).reshape(4, 3)), "text": ["a", "bc", "", "€"]})
DIGEST = hashlib.sha256(DATA).hexdigest()
SIZE = len(DATA)


@pytest.fixture
def uploads(client: redis.asyncio.Redis, blobs: DirectoryBlobs) -> Uploads:
    return Uploads(client, blobs, upload_bytes=2 * SIZE)


async def pieces(data: bytes, size: int = 7) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def send(uploads: Uploads, person: str = "ada", data: bytes = DATA, start: int = 0, **more: Any) -> Upload:
    """Send bytes; as a whole, unless told otherwise."""
    digest = more.get("digest") or hashlib.sha256(DATA if more.get("part") else data).hexdigest()
    size = more.get("size") or (SIZE if more.get("part") else len(data))
    return await uploads.receive(person, digest, size, start, pieces(data), most=3 * SIZE)


async def collected(lane: Lane, client: redis.asyncio.Redis, blobs: DirectoryBlobs) -> list[str]:
    """Names of blobs that are left when everybody's time is over."""
    for member in await client.zrange(keys.GARBAGE, 0, -1):
        await client.zadd(keys.GARBAGE, {member: 0})
    await lane.expire_results()
    return [name async for name in blobs.list()]


async def test_an_upload_is_described_and_read_back(uploads: Uploads):
    found = await send(uploads)
    assert found.columns is not None
    assert found.columns["x"] == Column(kind="tensor", rows=4, dtype="float64", tail=(3,))
    assert found.columns["text"] == Column(kind="text", rows=4, longest=3, total=6)
    stored = await uploads.get("ada", DIGEST)
    assert stored.upload == found
    assert b"".join([chunk async for chunk in uploads.read(stored, 5, 9)]) == DATA[5:9]
    assert await uploads.all_of("ada") == [found]
    assert await uploads.used("ada") == SIZE


@pytest.mark.parametrize("cuts", [[SIZE // 2], [1, 8, 100], [SIZE - 1]])
async def test_parts_are_joined_and_their_blobs_go(
    uploads: Uploads, lane: Lane, client: redis.asyncio.Redis, blobs: DirectoryBlobs, cuts: list[int]
):
    for start, stop in zip([0, *cuts], [*cuts, SIZE], strict=True):
        found = await send(uploads, data=DATA[start:stop], start=start, part=True)
        assert found.received == stop
        assert found.complete is (stop == SIZE)
        assert (await uploads.get("ada", DIGEST)).upload == found
    stored = await uploads.get("ada", DIGEST)
    [name] = await collected(lane, client, blobs)
    assert name == stored.blob
    assert await read_all(blobs, name) == DATA


async def test_bytes_that_have_come_before_are_passed_over_and_missing_ones_are_not(uploads: Uploads):
    await send(uploads, data=DATA[:20], part=True)
    with pytest.raises(Conflict, match="has 20 bytes; this part begins at 21"):
        await send(uploads, data=DATA[21:], start=21, part=True)
    assert (await send(uploads, data=DATA[10:30], start=10, part=True)).received == 30
    assert (await send(uploads, data=DATA[10:20], start=10, part=True)).received == 30
    assert (await send(uploads)).complete
    assert (await send(uploads)).complete


async def test_all_bytes_that_came_before_a_process_died_are_enough_to_go_on(uploads: Uploads, monkeypatch):
    async def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(uploads, "_finish", dies)
        await send(uploads)
    assert (await uploads.get("ada", DIGEST)).upload.received == SIZE
    assert (await send(uploads, data=b"", start=SIZE, part=True)).complete


async def test_two_requests_at_once_make_one_upload(uploads: Uploads, lane: Lane, client, blobs: DirectoryBlobs):
    found = await asyncio.gather(*(send(uploads) for _ in range(5)), return_exceptions=True)
    assert any(isinstance(one, Upload) and one.complete for one in found)
    assert all(isinstance(one, Upload | Conflict) for one in found), found
    assert await uploads.used("ada") == SIZE
    assert len(await collected(lane, client, blobs)) == 1


async def test_a_script_whose_answer_was_lost_can_be_repeated(uploads: Uploads, client: redis.asyncio.Redis):
    await send(uploads, data=DATA[:20], part=True)
    part = (await client.lrange(keys.parts_of("ada", DIGEST), 0, -1))[0]
    assert await uploads._run("upload_part", "ada", DIGEST, 0, part, 20, 1000, 9) == 1
    assert (await send(uploads)).complete
    blob = (await uploads.get("ada", DIGEST)).blob
    assert await uploads._run("upload_finish", "ada", DIGEST, blob or "", "{}") == 1


@pytest.mark.parametrize(
    ("data", "digest", "error", "said"),
    [
        (DATA[:-1] + b"!", DIGEST, BadArgument, f"have the sha256 .*, not {DIGEST}"),
        (b"no file of tensors at all", None, ProtocolError, "header"),
        (DATA[:-1] + b"\xff", None, ProtocolError, "row 3 of text column 'text' is not UTF-8"),
    ],
)
async def test_bytes_that_are_not_what_they_should_be_are_thrown_away(
    uploads: Uploads, lane: Lane, client, blobs: DirectoryBlobs, data: bytes, digest: str | None, error: Any, said: str
):
    with pytest.raises(error, match=said):
        await send(uploads, data=data, digest=digest)
    assert await uploads.all_of("ada") == []
    assert await uploads.used("ada") == 0
    assert await collected(lane, client, blobs) == []


async def test_limits_have_both_numbers(uploads: Uploads):
    with pytest.raises(PayloadTooLarge, match=f"has {2 * SIZE + 1:,} bytes; one upload may have {2 * SIZE:,}"):
        await send(uploads, size=2 * SIZE + 1)
    await send(uploads)
    await send(uploads, digest="a" * 64, size=2 * SIZE, data=b"begun")
    with pytest.raises(
        PayloadTooLarge, match=f"has 1 bytes, and your uploads and results take {3 * SIZE:,} of the {3 * SIZE:,}"
    ):
        await send(uploads, digest="b" * 64, size=1)
    assert (await send(uploads, "bob")).complete
    await uploads.delete("ada", "a" * 64)
    assert await uploads.used("ada") == SIZE


async def test_uploads_and_parts_are_limited_in_number(uploads: Uploads, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_UPLOADS", 2)
    monkeypatch.setattr(module, "MAX_PARTS", 3)
    await send(uploads, digest="a" * 64, size=4, data=b"x")
    for start in range(3):
        await send(uploads, data=DATA[start : start + 1], start=start, part=True)
    with pytest.raises(PayloadTooLarge, match="in 3 parts"):
        await send(uploads, data=DATA[3:], start=3, part=True)
    assert (await uploads.get("ada", DIGEST)).upload.received == 3
    with pytest.raises(PayloadTooLarge, match="you have 2 uploads"):
        await send(uploads, digest="b" * 64, size=4, data=b"x")


async def test_uploads_begun_at_once_do_not_exceed_the_limit(uploads: Uploads):
    begun = [send(uploads, digest=f"{at:064x}", size=SIZE, data=b"x") for at in range(20)]
    found = await asyncio.gather(*begun, return_exceptions=True)
    assert sum(isinstance(one, Upload) for one in found) == 3
    assert sum(isinstance(one, PayloadTooLarge) for one in found) == 17
    assert await uploads.used("ada") == 3 * SIZE


async def test_a_begun_upload_keeps_its_size_and_more_bytes_are_refused(uploads: Uploads):
    await send(uploads, data=DATA[:20], part=True)
    with pytest.raises(Conflict, match=f"begun with {SIZE:,} bytes, not 99"):
        await send(uploads, digest=DIGEST, size=99)
    with pytest.raises(BadArgument, match=f"more bytes came than the {SIZE:,}"):
        await send(uploads, data=DATA + b"x", digest=DIGEST, size=SIZE)
    assert (await uploads.get("ada", DIGEST)).upload.received == 20
    with pytest.raises(BadArgument, match="no bytes"):
        await uploads.receive("ada", "c" * 64, 0, 0, pieces(b""))
    with pytest.raises(BadArgument, match="64 of 0-9 a-f"):
        await send(uploads, digest="short")


async def test_others_have_no_such_upload_and_deleting_hurts_nobody_else(uploads: Uploads, blobs: DirectoryBlobs):
    await send(uploads)
    for call in (uploads.get("bob", DIGEST), uploads.delete("bob", DIGEST)):
        with pytest.raises(NotFound, match=DIGEST):
            await call
    await send(uploads, "bob")
    await uploads.delete("ada", DIGEST)
    stored = await uploads.get("bob", DIGEST)
    assert b"".join([chunk async for chunk in uploads.read(stored)]) == DATA
    with pytest.raises(NotFound):
        await uploads.get("ada", DIGEST)


async def test_what_nobody_goes_on_with_is_forgotten(client: redis.asyncio.Redis, blobs: DirectoryBlobs, lane: Lane):
    uploads = Uploads(client, blobs, unfinished_seconds=0.5)
    await send(uploads)
    await send(uploads, digest="a" * 64, size=SIZE, data=b"begun")
    assert await uploads.expire() == 0
    assert await uploads._run("upload_delete", "ada", "a" * 64, "unfinished") == 0  # its part came meanwhile
    await asyncio.sleep(0.6)
    assert await uploads.expire() == 1
    assert [one.sha256 for one in await uploads.all_of("ada")] == [DIGEST]
    assert await uploads.used("ada") == SIZE
    assert len(await collected(lane, client, blobs)) == 1


async def using(uploads: Uploads, lane: Lane) -> NewJob:
    blob = (await uploads.get("ada", DIGEST)).blob
    assert blob is not None
    return NewJob(new_job_id(), "ada", "gpt2", b"{}", data={DIGEST: blob})


async def test_a_deleted_upload_stays_for_jobs_that_need_it_and_counts_until_they_end(
    uploads: Uploads, lane: Lane, client: redis.asyncio.Redis, blobs: DirectoryBlobs
):
    await send(uploads)
    jobs = [await using(uploads, lane) for _ in range(3)]
    assert [one.error for one in await lane.submit(jobs)] == [None] * 3
    await uploads.delete("ada", DIGEST)
    assert await uploads.all_of("ada") == []
    assert len(await collected(lane, client, blobs)) == 1
    [first, second] = await lane.take("gpt2", "w1", max_jobs=2)
    assert await lane.data(first, DIGEST) == DATA
    with pytest.raises(NotFound, match="uses no upload"):
        await lane.data(first, "a" * 64)
    await lane.complete(first.id, "w1", saves={}, result=b"")
    await lane.cancel("ada", second.id)
    assert await uploads.used("ada") == SIZE
    assert len(await collected(lane, client, blobs)) == 1
    await lane.cancel("ada", jobs[2].id)
    assert await uploads.used("ada") == 0
    assert await collected(lane, client, blobs) == []


async def test_an_upload_outlives_the_jobs_that_used_it(uploads: Uploads, lane: Lane, client, blobs: DirectoryBlobs):
    await send(uploads)
    job = await using(uploads, lane)
    await lane.submit([job, job.__class__(**{**vars(job), "id": new_job_id()})])
    for taken in await lane.take("gpt2", "w1"):
        await lane.complete(taken.id, "w1", saves={}, result=b"")
    assert len(await collected(lane, client, blobs)) == 1
    assert await uploads.used("ada") == SIZE
    await uploads.delete("ada", DIGEST)
    assert await uploads.used("ada") == 0
    assert await collected(lane, client, blobs) == []


async def test_a_job_that_comes_after_the_deletion_is_refused(uploads: Uploads, lane: Lane):
    await send(uploads)
    job = await using(uploads, lane)
    await uploads.delete("ada", DIGEST)
    [answer] = await lane.submit([job])
    assert answer.error is not None
    assert (answer.error.code, DIGEST in answer.error.detail) == ("not_found", True)
    assert await lane.take("gpt2", "w1") == []
    await send(uploads)
    [answer] = await lane.submit([job])  # another blob now
    assert answer.error is not None


async def test_little_of_a_large_upload_is_held_at_once(client: redis.asyncio.Redis, blobs: DirectoryBlobs):
    largest = 0

    async def stream(data: memoryview) -> AsyncIterator[bytes]:
        for start in range(0, len(data), 2**16):
            yield bytes(data[start : start + 2**16])

    class Watched(DirectoryBlobs):
        async def get(self, name: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
            nonlocal largest
            size = (stop if stop is not None else await self.size(name)) - start
            largest = max(largest, 0 if stop is None else size)
            async for chunk in super().get(name, start, stop):
                largest = max(largest, len(chunk))
                yield chunk

    data = encode({"x": Tensor.of(np.zeros((8, 2**19))), "text": ["a" * 2**20] * 8})
    uploads = module.Uploads(client, Watched(blobs.directory))
    digest, middle = hashlib.sha256(data).hexdigest(), len(data) // 2
    await uploads.receive("ada", digest, len(data), 0, stream(memoryview(data)[:middle]))
    assert (await uploads.receive("ada", digest, len(data), middle, stream(memoryview(data)[middle:]))).complete
    assert largest == 2**20
