"""Uploads: data that a person sends once, in parts if need be, and uses in many jobs.

Bytes are counted from the moment an upload is announced until they are gone: one that is deleted while jobs need it
stays for them, and counts, until the last of these has ended.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Generator
from dataclasses import dataclass
from typing import cast

import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.blobs import Blobs
from telepatch_broker.connection import now_ms
from telepatch_broker.scripting import Scripts
from telepatch_broker.storing import store
from telepatch_protocol.data import Columns, Upload, check_digest
from telepatch_protocol.data_files import Wanted, scan
from telepatch_protocol.errors import (
    BadArgument,
    Conflict,
    GraphError,
    NotFound,
    PayloadTooLarge,
    StorageFull,
    Unavailable,
)

_FIELDS = ("bytes", "received", "created", "columns", "blob")
_SWEEP = 200

MAX_UPLOADS = 10_000
"""How many uploads a person may have; each takes room in Redis, however few bytes it has."""

MAX_PARTS = 10_000
"""How many parts an upload may come in; each is a blob until all are there."""


@dataclass(frozen=True)
class Stored:
    """An upload, and the blob that holds it once it is complete."""

    upload: Upload
    blob: str | None


class Uploads:
    """The uploads of everybody; nobody's are there for others.

    Args:
        client: from `telepatch_broker.connection.connect`.
        blobs: where they are kept.
        upload_bytes: that one upload may have.
        unfinished_seconds: how long an upload is kept whose next part does not come.

    Example:
        >>> uploads = Uploads(connect("redis://localhost"), DirectoryBlobs(Path("blobs")))
        >>> await uploads.receive("ada", digest, len(data), 0, chunks_of(data))
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        blobs: Blobs,
        *,
        upload_bytes: int = 2**31,
        unfinished_seconds: float = 86400.0,
    ) -> None:
        self._redis = client
        self._blobs = blobs
        self._run = Scripts(client)
        self._upload_bytes = upload_bytes
        self._keep_ms = round(unfinished_seconds * 1000)

    async def receive(
        self, person: str, digest: str, size: int, start: int, data: AsyncIterator[bytes], *, most: int | None = None
    ) -> Upload:
        """Take bytes of an upload, which is begun if need be, and looked at as a whole once the last one is there.

        What `data` holds of bytes that have come before is passed over; where it ends early, what came counts.

        Args:
            person: whose upload.
            digest: sha256 of all its bytes.
            size: how many these are.
            start: the place of the first byte of `data`.
            data: the bytes, in pieces.
            most: bytes that the person may have, results included; None is as many as they like.

        Raises:
            Conflict: begun with another size; bytes before `start` are missing; another request was faster.
            PayloadTooLarge: over a limit; `StorageFull` where it is that of all one's bytes.
            BadArgument: the bytes are others than the digest says; all are thrown away.
            ProtocolError: they are no columns; all are thrown away.
        """
        before = await self._begin(person, digest, size, most)
        if before.complete:
            return before
        if start > before.received:
            raise Conflict(
                f"upload {digest} has {before.received} bytes; this part begins at {start}, so some are missing"
            )
        received = before.received + await self._append(person, before, start, data)
        if received < size:
            return before.model_copy(update={"received": received})
        return await self._finish(person, before)

    async def get(self, person: str, digest: str) -> Stored:
        """One upload.

        Raises:
            NotFound: `person` has none of that digest.
        """
        [found] = await self._read(person, [check_digest(digest)])
        if found is None:
            raise NotFound(f"there is no upload {digest} among yours; PUT /v1/data/{digest} makes it known")
        return found

    async def complete(self, person: str, digest: str) -> Stored:
        """One upload, all of whose bytes have come.

        Raises:
            NotFound: `person` has none of that digest.
            Conflict: bytes of it are missing.
        """
        found = await self.get(person, digest)
        if not found.upload.complete:
            come = f"{found.upload.received:,} of the {found.upload.bytes:,} bytes"
            raise Conflict(f"{come} of upload {digest} have come; send the rest")
        return found

    async def all_of(self, person: str) -> list[Upload]:
        """All uploads of a person, oldest first."""
        digests = cast("list[bytes]", await self._redis.zrange(keys.uploads_of(person), 0, -1))
        names = [digest.decode() for digest in digests]
        return [found.upload for found in await self._read(person, names) if found is not None]

    async def used(self, person: str) -> int:
        """How many bytes the uploads of a person count for."""
        found = await cast("Awaitable[bytes | None]", self._redis.hget(keys.UPLOADED, person))
        return int(found or 0)

    async def read(self, stored: Stored, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Bytes of a complete upload, in chunks."""
        assert stored.blob is not None
        async for chunk in self._blobs.get(stored.blob, start, stop):
            yield chunk

    async def delete(self, person: str, digest: str) -> None:
        """Forget an upload; jobs that were promised it still get it.

        Raises:
            NotFound: `person` has none of that digest.
        """
        if not await self._run("upload_delete", person, check_digest(digest), ""):
            raise NotFound(f"there is no upload {digest} among yours")

    async def expire(self) -> int:
        """Forget uploads whose next part has not come for too long; returns their number."""
        now = await now_ms(self._redis)
        due = cast("list[bytes]", await self._redis.zrangebyscore(keys.UNFINISHED, "-inf", now, start=0, num=_SWEEP))
        owned = [member.decode().split(" ") for member in due]
        return sum([await self._run("upload_delete", person, digest, "unfinished") for person, digest in owned])

    async def _begin(self, person: str, digest: str, size: int, most: int | None) -> Upload:
        keys.check_name("person", person)
        if size > self._upload_bytes:
            raise PayloadTooLarge(f"the upload has {size:,} bytes; one upload may have {self._upload_bytes:,}")
        if size < 1:
            raise BadArgument("the upload has no bytes; an upload is a safetensors file")
        limits = ("" if most is None else most, MAX_UPLOADS, self._keep_ms)
        outcome, number = await self._run("upload_begin", person, check_digest(digest), size, *limits)
        if outcome == b"full":
            raise StorageFull(
                f"the upload has {size:,} bytes, and your uploads and results take {number:,} of the {most:,} that you "
                "may have; delete some: GET /v1/data and /v1/jobs list them"
            )
        if outcome == b"many":
            raise PayloadTooLarge(f"you have {MAX_UPLOADS:,} uploads, and may have no more; delete some, or join them")
        if outcome == b"known" and number != size:
            raise Conflict(f"upload {digest} was begun with {number:,} bytes, not {size:,}; DELETE it to begin anew")
        return (await self.get(person, digest)).upload

    async def _append(self, person: str, before: Upload, start: int, data: AsyncIterator[bytes]) -> int:
        """Store what is new in `data`; says how much that is."""
        missing, passed, came = before.bytes - before.received, before.received - start, 0

        async def new() -> AsyncIterator[bytes]:
            nonlocal passed, came
            async for chunk in data:
                rest = chunk[passed:]
                passed -= len(chunk) - len(rest)
                came += len(rest)
                if came > missing:
                    raise BadArgument(f"more bytes came than the {before.bytes:,} that were announced")
                if rest:
                    yield rest

        name = await store(self._redis, self._blobs, "part", new())
        if not came:
            await self._blobs.delete(name)
            return 0
        place = (person, before.sha256, before.received)
        outcome = await self._run("upload_part", *place, name, came, self._keep_ms, MAX_PARTS)
        if outcome != 1:
            await self._blobs.delete(name)
        if outcome == -1:
            raise PayloadTooLarge(f"an upload may come in {MAX_PARTS:,} parts; DELETE it, and send larger ones")
        if outcome == 0:
            raise Conflict(f"another request has changed upload {before.sha256} meanwhile; ask how far it is")
        return came

    async def _finish(self, person: str, upload: Upload) -> Upload:
        """Join the parts, and see whether they are what was announced."""
        place = keys.parts_of(person, upload.sha256)
        found = await cast("Awaitable[list[bytes]]", self._redis.lrange(place, 0, -1))
        parts = [name.decode() for name in found]
        name, digest = await self._joined(parts)
        try:
            if digest != upload.sha256:
                raise BadArgument(
                    f"the bytes of this upload have the sha256 {digest}, not {upload.sha256}; they were thrown away"
                )
            columns = await self._described(name, upload.bytes)
        except GraphError:
            await self._run("upload_delete", person, upload.sha256, "")
            raise
        told = columns.model_dump_json(exclude_defaults=True)
        if not await self._run("upload_finish", person, upload.sha256, name, told) and name not in parts:
            await self._blobs.delete(name)
        return (await self.get(person, upload.sha256)).upload

    async def _joined(self, parts: list[str]) -> tuple[str, str]:
        """The parts as one blob: its name, and the sha256 of its bytes."""
        hashed = hashlib.sha256()

        async def chunks() -> AsyncIterator[bytes]:
            for part in parts:
                async for chunk in self._blobs.get(part):
                    await asyncio.to_thread(hashed.update, chunk)
                    yield chunk

        if len(parts) > 1:
            return await store(self._redis, self._blobs, "data", chunks()), hashed.hexdigest()
        async for _ in chunks():
            pass
        return parts[0], hashed.hexdigest()

    async def _described(self, name: str, size: int) -> Columns:
        """The columns of a blob, of which little is read and less is held."""
        asking = scan(size)
        wanted = await asyncio.to_thread(_next, asking, None)
        while not isinstance(wanted, Columns):
            part = b"".join([chunk async for chunk in self._blobs.get(name, *wanted)])
            if len(part) != wanted[1] - wanted[0]:
                raise Unavailable(f"the blob store gives {len(part)} bytes of {name}, not {wanted[1] - wanted[0]}")
            wanted = await asyncio.to_thread(_next, asking, part)
        return wanted

    async def _read(self, person: str, digests: list[str]) -> list[Stored | None]:
        pipeline = self._redis.pipeline(transaction=False)
        for digest in digests:
            pipeline.hmget(keys.upload(person, digest), list(_FIELDS))
        rows = await pipeline.execute() if digests else []
        return [_stored(digest, row) for digest, row in zip(digests, rows, strict=True)]


def _next(asking: Generator[Wanted, bytes, Columns], part: bytes | None) -> Wanted | Columns:
    try:
        return next(asking) if part is None else asking.send(part)
    except StopIteration as done:
        found: Columns = done.value
        return found


def _stored(digest: str, row: list[bytes | None]) -> Stored | None:
    size, received, created, columns, blob = row
    if size is None:
        return None
    upload = Upload(
        sha256=digest,
        bytes=int(size),
        received=int(received or 0),
        columns=Columns.model_validate_json(columns) if columns else None,
        created=int(created or 0) / 1000,
    )
    return Stored(upload, blob.decode() if blob else None)
