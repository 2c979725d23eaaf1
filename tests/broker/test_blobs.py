"""Blobs: there as a whole or not at all, under safe names, in a directory, behind the gateway, or in a bucket."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from tests.broker.bucket import BUCKET, bucket

from telepatch_broker import blobs
from telepatch_broker.blobs import CHUNK, Blobs, DirectoryBlobs, read_all
from telepatch_broker.connection import connect
from telepatch_broker.gateway_blobs import GatewayBlobs
from telepatch_broker.s3_blobs import S3Blobs
from telepatch_broker.shared import check_shared
from telepatch_protocol.errors import BadArgument, ConnectionFailed, NotFound, Unauthorized, Unavailable


def gateway(store: DirectoryBlobs, token: str) -> Starlette:
    """The routes of a gateway, as small as they can be."""

    async def one(request: Request) -> Response:
        if request.headers["authorization"] != f"Bearer {token}":
            return Response(status_code=401)
        name = request.path_params["name"]
        try:
            if request.method == "PUT":
                await store.put(name, request.stream())
                return Response(status_code=204)
            if request.method == "DELETE":
                await store.delete(name)
                return Response(status_code=204)
            data = await read_all(store, name)
        except NotFound:
            return Response(status_code=404)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if found is None:
            return Response(data)
        start, last = int(found[1]), int(found[2] or len(data) - 1)
        return Response(status_code=416) if start >= len(data) else Response(data[start : last + 1], status_code=206)

    async def names(request: Request) -> Response:
        return JSONResponse({"names": [name async for name in store.list(request.query_params["prefix"])]})

    route = "/v1/worker/blobs"
    return Starlette(routes=[Route(route, names), Route(route + "/{name}", one, methods=["GET", "PUT", "DELETE"])])


@pytest.fixture(scope="module")
def variables() -> Iterator[dict[str, str]]:
    with bucket() as found:
        yield found


@pytest.fixture
def s3(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> S3Blobs:
    """Blobs in a bucket, in a place that nobody else uses."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return S3Blobs(f"s3://{BUCKET}/{secrets.token_hex(4)}/deep")


@pytest.fixture(params=["directory", "gateway", "bucket"])
async def store(request: pytest.FixtureRequest, blobs: DirectoryBlobs) -> AsyncIterator[Blobs]:
    if request.param == "directory":
        yield blobs
        return
    if request.param == "bucket":
        yield request.getfixturevalue("s3")
        return
    transport = httpx.ASGITransport(gateway(blobs, "secret"))
    through = GatewayBlobs("http://gateway/", "secret", transport=transport)
    yield through
    await through.aclose()


async def test_what_is_written_can_be_read(store: Blobs) -> None:
    await store.put("one", b"data")
    assert await read_all(store, "one") == b"data"
    assert await store.size("one") == 4


async def test_a_blob_can_be_written_from_a_file_or_a_stream(store: Blobs, tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    path = tmp_path / "file"
    path.write_bytes(data)

    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    await store.put("file", path)
    await store.put("stream", stream())
    assert await read_all(store, "file") == await read_all(store, "stream") == data


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (3, None), (5, 5), (9, 99), (10, None), (0, None), (12, 14)])
async def test_a_part_of_a_blob_can_be_read(store: Blobs, start: int, stop: int | None) -> None:
    await store.put("digits", b"0123456789")
    assert b"".join([part async for part in store.get("digits", start, stop)]) == b"0123456789"[start:stop]


async def test_a_blob_that_is_not_there_says_so(store: Blobs) -> None:
    with pytest.raises(NotFound, match="nothing"):
        await read_all(store, "nothing")
    with pytest.raises(NotFound, match="nothing"):
        await store.size("nothing")
    await store.delete("nothing")


async def test_blobs_are_listed_and_deleted(store: Blobs) -> None:
    for name in ("in-1", "in-2", "out-1"):
        await store.put(name, b"")
    await store.delete("in-1")
    assert [name async for name in store.list()] == ["in-2", "out-1"]
    assert [name async for name in store.list("out-")] == ["out-1"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../up", "a\\b", "a\0b", "a b", "x" * 201, "ä", "a\n"]
)
async def test_a_name_that_could_leave_the_directory_is_refused(store: Blobs, name: str) -> None:
    with pytest.raises(BadArgument):
        await store.put(name, b"")
    with pytest.raises(BadArgument):
        await read_all(store, name)


async def test_a_large_blob_is_read_in_pieces(blobs: DirectoryBlobs) -> None:
    await blobs.put("large", bytes(2 * CHUNK + 1))
    assert [len(part) async for part in blobs.get("large")] == [CHUNK, CHUNK, 1]


async def test_a_blob_that_was_not_finished_is_not_there(blobs: DirectoryBlobs) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        assert [name async for name in blobs.list()] == []
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put("one", broken())
    assert list(blobs.directory.iterdir()) == []


async def test_writers_of_one_name_never_mix(blobs: DirectoryBlobs) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    await asyncio.gather(*(blobs.put("one", content) for content in contents))
    assert await read_all(blobs, "one") in contents


async def test_a_wrong_token_is_told_as_such(blobs: DirectoryBlobs) -> None:
    through = GatewayBlobs("http://gateway", "guess", transport=httpx.ASGITransport(gateway(blobs, "secret")))
    with pytest.raises(Unauthorized, match="token"):
        await through.put("one", b"")
    with pytest.raises(Unauthorized):
        await read_all(through, "one")
    await through.aclose()


async def test_a_gateway_that_is_away_is_told_as_such() -> None:
    through = GatewayBlobs("http://127.0.0.1:9", "secret", retry_seconds=0)
    with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9"):
        await through.put("one", b"")
    with pytest.raises(ConnectionFailed):
        await read_all(through, "one")
    await through.aclose()


async def test_a_gateway_that_is_away_for_a_moment_is_tried_again(blobs: DirectoryBlobs, tmp_path: Path) -> None:
    away = 2
    application = gateway(blobs, "secret")

    async def restarting(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal away
        away -= 1
        await (Response(status_code=503) if away >= 0 else application)(scope, receive, send)

    path = tmp_path / "file"
    path.write_bytes(b"data")
    through = GatewayBlobs("http://gateway", "secret", transport=httpx.ASGITransport(restarting))
    await through.put("one", path)
    assert await read_all(blobs, "one") == b"data"
    await through.aclose()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
async def test_a_disk_that_takes_nothing_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    store = DirectoryBlobs(tmp_path)
    monkeypatch.setattr(blobs, "_publish", full)
    with pytest.raises(Unavailable, match=rf"takes nothing: {os.strerror(code)}.*'The blob store is full'"):
        await store.put("one", b"data")
    assert list(tmp_path.iterdir()) == []


async def test_what_killed_processes_left_half_written_goes_after_a_while(tmp_path: Path) -> None:
    store = DirectoryBlobs(tmp_path / "blobs")
    assert await store.clear_drafts() == 0
    await store.put("whole", b"data")
    for name in (".old.0123", ".new.0123"):
        (tmp_path / "blobs" / name).write_bytes(b"da")
    os.utime(tmp_path / "blobs" / ".old.0123", (1, 1))
    os.utime(tmp_path / "blobs" / "whole", (1, 1))
    assert await store.clear_drafts(3600) == 1
    assert sorted(path.name for path in (tmp_path / "blobs").iterdir()) == [".new.0123", "whole"]


async def test_a_stream_without_bytes_is_an_empty_blob(store: Blobs) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    await store.put("empty", nothing())
    assert await read_all(store, "empty") == b""
    assert await store.size("empty") == 0


async def test_a_large_blob_goes_to_a_bucket_in_parts_and_comes_back_in_pieces(s3: S3Blobs, tmp_path: Path) -> None:
    data = secrets.token_bytes(12 * CHUNK + 17)
    (tmp_path / "file").write_bytes(data)
    await s3.put("large", tmp_path / "file")
    pieces = [part async for part in s3.get("large")]
    assert len(pieces) > 3
    assert b"".join(pieces) == data
    assert b"".join([part async for part in s3.get("large", 5 * CHUNK, 9 * CHUNK)]) == data[5 * CHUNK : 9 * CHUNK]


async def test_a_blob_that_breaks_off_is_not_in_the_bucket(s3: S3Blobs) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(8 * CHUNK)
        raise ConnectionResetError("the sender is gone")

    with pytest.raises((ConnectionResetError, Unavailable)):
        await s3.put("one", broken())
    with pytest.raises(NotFound):
        await s3.size("one")
    assert [name async for name in s3.list()] == []


async def test_processes_see_whether_they_share_a_bucket(s3: S3Blobs, redis_url: str) -> None:
    async with connect(redis_url) as client:
        await check_shared(s3, client)
        await check_shared(S3Blobs(s3.place), client)
        with pytest.raises(Unavailable, match="does not hold 'nonce-"):
            await check_shared(S3Blobs(f"s3://{BUCKET}/elsewhere"), client)


async def test_a_bucket_that_is_not_there_is_named(s3: S3Blobs, redis_url: str) -> None:
    async with connect(redis_url) as client:
        with pytest.raises(Unavailable, match="s3://no-such-bucket/x is not there"):
            await check_shared(S3Blobs("s3://no-such-bucket/x"), client)
