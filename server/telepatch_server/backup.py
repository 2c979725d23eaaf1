"""All that a service would not want to lose as one file: the queue as it is at one moment, and the blob store.

Blobs are copied after the queue. They never change, and none is removed meanwhile, so that each that the queue speaks
of is there. The service goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import secrets
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Final

from telepatch_broker.blobs import CHUNK, Blobs, check_name
from telepatch_broker.connection import check, connect
from telepatch_broker.schema import SCHEMA
from telepatch_broker.snapshots import copy_into, keeping_blobs, loaded, snapshot
from telepatch_protocol.errors import BadArgument, Conflict, NotFound

FORMAT: Final = 1
_QUEUE: Final = "queue.rdb"
_MANIFEST: Final = "manifest.json"
_BLOBS: Final = "blobs/"

Say = Callable[[str], None]


async def backup(url: str, blobs: Blobs, file: Path, say: Say) -> None:
    """Write a backup; the file is there as a whole or not at all, and readable by its owner alone.

    Args:
        url: of the queue.
        blobs: the blob store.
        file: of the backup; must not be there yet.
        say: told what happens.

    Raises:
        BadArgument: the file is there already, or cannot be written.
        Unavailable: the queue or the blob store cannot be read.
    """
    if file.exists():
        raise BadArgument(f"{file} is there already; give another name")
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise BadArgument(f"{file} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as target:
            await _write(url, blobs, target, say)
            target.flush()
            os.fsync(target.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


async def _write(url: str, blobs: Blobs, target: IO[bytes], say: Say) -> None:
    sums: dict[str, str] = {}
    client = connect(url)
    try:
        await check(client)
        async with keeping_blobs(client):
            with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                with tempfile.TemporaryFile() as queue:
                    size = await asyncio.to_thread(snapshot, url, queue)
                    queue.seek(0)
                    sums[_QUEUE] = await asyncio.to_thread(_add, archive, _QUEUE, queue, size)
                say(f"queue: {size:,} bytes")
                names = [name async for name in blobs.list() if not name.startswith("check-")]
                for name in names:
                    with suppress(NotFound):  # the parts of an upload go as soon as it is complete
                        sums[_BLOBS + name] = await _add_blob(archive, blobs, name)
                say(f"blob store: {len(sums) - 1:,} blobs")
                made = {"format": FORMAT, "schema": SCHEMA, "telepatch": version("telepatch"), "at": time.time()}
                text = json.dumps({**made, "sha256": sums}).encode()
                _add(archive, _MANIFEST, io.BytesIO(text), len(text))
    finally:
        await client.aclose()


async def _add_blob(archive: tarfile.TarFile, blobs: Blobs, name: str) -> str:
    size = await blobs.size(name)
    with tempfile.SpooledTemporaryFile(max_size=16 * CHUNK) as held:
        async for chunk in blobs.get(name):
            held.write(chunk)
        held.seek(0)
        return await asyncio.to_thread(_add, archive, _BLOBS + name, held, size)


def _add(archive: tarfile.TarFile, name: str, data: Any, size: int) -> str:
    """One member of the archive; returns the sha256 of its bytes."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o600, int(time.time())
    hashed = _Hashed(data)
    archive.addfile(entry, hashed)
    return hashed.sha256.hexdigest()


class _Hashed:
    """A file whose bytes are counted into a hash as they are read."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """So many bytes."""
        data: bytes = self._file.read(size)
        self.sha256.update(data)
        return data


async def restore(file: Path, url: str, blobs: Blobs, say: Say) -> None:
    """Put a backup into an empty queue and an empty blob store; the file is read whole and compared before that.

    Args:
        file: that `backup` wrote.
        url: of the queue.
        blobs: the blob store.
        say: told what happens.

    Raises:
        BadArgument: it is no backup, a damaged one, or of a version that is not known here.
        Conflict: queue or blob store are not empty.
    """
    manifest = await asyncio.to_thread(_checked, file)
    say(f"{file}: of {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(manifest['at']))}, whole")
    async for name in blobs.list():
        raise Conflict(f"the blob store has {name!r} already; restore into an empty one: nothing is ever mixed")
    with tempfile.TemporaryDirectory(prefix="telepatch-restore-") as folder:
        queue = Path(folder) / _QUEUE
        await asyncio.to_thread(_extract, file, queue)
        with loaded(queue) as source:
            keys = await asyncio.to_thread(copy_into, source, url)
    say(f"queue: {keys:,} keys")
    restored = 0
    with tarfile.open(file, mode="r:") as archive:
        for entry in archive:
            if entry.name.startswith(_BLOBS):
                await blobs.put(check_name(entry.name.removeprefix(_BLOBS)), _chunks(archive, entry))
                restored += 1
    say(f"blob store: {restored:,} blobs")


async def _chunks(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> AsyncIterator[bytes]:
    data = archive.extractfile(entry)
    while data is not None and (chunk := await asyncio.to_thread(data.read, CHUNK)):
        yield chunk


def _extract(file: Path, queue: Path) -> None:
    with tarfile.open(file, mode="r:") as archive, queue.open("wb") as target:
        data = archive.extractfile(_QUEUE)
        while data is not None and (chunk := data.read(CHUNK)):
            target.write(chunk)


def _checked(file: Path) -> dict[str, Any]:
    """The manifest of a backup whose every byte is what it was."""
    sums: dict[str, str] = {}
    manifest: dict[str, Any] = {}
    try:
        with tarfile.open(file, mode="r:") as archive:
            for entry in archive:
                hashed = _Hashed(archive.extractfile(entry))
                if entry.name == _MANIFEST:
                    manifest = json.loads(hashed.read())
                    continue
                while hashed.read(CHUNK):
                    pass
                sums[entry.name] = hashed.sha256.hexdigest()
    except OSError as error:
        raise BadArgument(f"{file} cannot be read: {error}") from None
    except (tarfile.TarError, ValueError, AttributeError) as error:
        raise BadArgument(f"{file} is no backup, or only a part of one: {error}") from None
    if manifest.get("format") != FORMAT or manifest.get("schema") != SCHEMA:
        found = f"format {manifest.get('format')}, queue {manifest.get('schema')}"
        raise BadArgument(f"{file} has {found}; this version of Telepatch restores format {FORMAT}, queue {SCHEMA}")
    written = manifest["sha256"]
    if wrong := [name for name in written.keys() | sums.keys() if written.get(name) != sums.get(name)]:
        raise BadArgument(f"{file} is damaged: {wrong[0]} is not what was written, and {len(wrong) - 1} more")
    return manifest
