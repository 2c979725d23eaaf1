"""Tensors too large for Redis: files behind one small interface, in a directory or behind the gateway."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from telepatch_protocol.errors import BadArgument, NotFound, Unavailable

CHUNK = 1024 * 1024
"""Bytes that are held at once while a blob is written or read."""

Source = bytes | Path | AsyncIterable[bytes]
"""What a blob can be written from."""

_CANNOT_BE_WRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


def check_name(name: str) -> str:
    """The name of a blob, if it is one: letters, digits, ``.``, ``_`` and ``-``, not starting with a dot.

    Raises:
        BadArgument: it is not.
    """
    if not _NAME.fullmatch(name):
        raise BadArgument(f"the blob is named {name!r}; 1 to 200 of A-Z a-z 0-9 . _ - can be, without a leading dot")
    return name


class Blobs(Protocol):
    """Where blobs are kept. A blob is there as a whole or not at all, and never changes."""

    async def put(self, name: str, data: Source) -> None:
        """Write a blob; once this returns it survives a crash."""

    def get(self, name: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Read bytes `start` to `stop`, in chunks; raises NotFound at the first one if there is no such blob."""

    async def size(self, name: str) -> int:
        """Bytes of a blob; raises NotFound if there is none."""

    async def delete(self, name: str) -> None:
        """Remove a blob, if it is there."""

    def list(self, prefix: str = "") -> AsyncIterator[str]:
        """Names of all blobs that start with `prefix`."""


async def read_all(blobs: Blobs, name: str) -> bytes:
    """A whole blob at once."""
    return b"".join([chunk async for chunk in blobs.get(name)])


async def chunks_of(data: Source) -> AsyncIterator[bytes]:
    """The bytes to write, in pieces."""
    if isinstance(data, bytes):
        yield data
    elif isinstance(data, Path):
        with await asyncio.to_thread(data.open, "rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK):
                yield chunk
    else:
        async for chunk in data:
            yield chunk


class DirectoryBlobs:
    """Blobs as files of one directory, which every process that uses them must see.

    Args:
        directory: made when it is not there.

    Example:
        >>> blobs = DirectoryBlobs(Path("/var/lib/telepatch/blobs"))
        >>> await blobs.put("one", b"data")
        >>> await read_all(blobs, "one")
        b'data'
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _path(self, name: str) -> Path:
        return self.directory / check_name(name)

    async def put(self, name: str, data: Source) -> None:
        """Write a blob beside its place and move it there, so that nobody ever sees half of one.

        Raises:
            Unavailable: the disk is full, or does not take it for another reason.
        """
        target = self._path(name)
        # No blob's name starts with a dot.
        draft = self.directory / f".{name[:100]}.{secrets.token_hex(8)}"
        await asyncio.to_thread(self.directory.mkdir, parents=True, exist_ok=True)
        try:
            with await asyncio.to_thread(draft.open, "xb") as file:
                async for chunk in chunks_of(data):
                    await asyncio.to_thread(file.write, chunk)
                await asyncio.to_thread(_publish, file, draft, target)
        except OSError as error:
            if error.errno in _CANNOT_BE_WRITTEN:
                raise _no_room(error) from error
            raise
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Read bytes `start` to `stop` of a blob."""
        path = self._path(name)
        try:
            file = await asyncio.to_thread(path.open, "rb")
        except FileNotFoundError:
            raise missing(name) from None
        with file:
            left = (stop if stop is not None else os.fstat(file.fileno()).st_size) - start
            file.seek(start)
            while left > 0 and (chunk := await asyncio.to_thread(file.read, min(CHUNK, left))):
                left -= len(chunk)
                yield chunk

    async def size(self, name: str) -> int:
        """Bytes of a blob."""
        try:
            return (await asyncio.to_thread(self._path(name).stat)).st_size
        except FileNotFoundError:
            raise missing(name) from None

    async def delete(self, name: str) -> None:
        """Remove a blob, if it is there."""
        await asyncio.to_thread(self._path(name).unlink, missing_ok=True)

    async def list(self, prefix: str = "") -> AsyncIterator[str]:
        """Names of all blobs that start with `prefix`."""
        for name in await asyncio.to_thread(_names, self.directory):
            if name.startswith(prefix):
                yield name

    async def clear_drafts(self, seconds: float = 86400.0) -> int:
        """Remove what processes left half-written that were killed, this long ago; returns how many there were."""
        return await asyncio.to_thread(_clear_drafts, self.directory, time.time() - seconds)


def _no_room(error: OSError) -> Unavailable:
    return Unavailable(
        f"the blob store of this service takes nothing: {error.strerror}. Try again later; for whoever runs the "
        "service, the run-book has 'The blob store is full'"
    )


def _publish(file: BinaryIO, draft: Path, target: Path) -> None:
    """Give a finished file its name, in a way that survives a power cut."""
    file.flush()
    os.fsync(file.fileno())
    draft.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _clear_drafts(directory: Path, before: float) -> int:
    drafts = [entry for entry in os.scandir(directory) if entry.name.startswith(".")] if directory.is_dir() else []
    removed = 0
    for entry in drafts:
        with suppress(FileNotFoundError):  # it is finished just now
            if entry.stat().st_mtime < before:
                Path(entry.path).unlink()
                removed += 1
    return removed


def _names(directory: Path) -> list[str]:
    if not directory.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(directory) if _NAME.fullmatch(entry.name) and entry.is_file())


def missing(name: str) -> NotFound:
    """What is raised where there is no such blob."""
    return NotFound(f"there is no blob {name!r} in the blob store")
