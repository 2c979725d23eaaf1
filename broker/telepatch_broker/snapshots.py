"""The queue as one file: taken from a server that goes on serving, and put into one that is empty.

It is taken as a replica takes it (SYNC): the server forks, and sends all keys as they were at one moment, in its own
format. To be read it is given to a server of one's own; from there the keys go, one by one, to where they are wanted,
which may be any server that understands the format.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any, Final

import redis
import redis.asyncio
from redis.exceptions import RedisError

from telepatch_broker import keys
from telepatch_broker.blobs import CHUNK
from telepatch_broker.connection import connect_sync
from telepatch_broker.launcher import embedded_valkey
from telepatch_protocol.errors import BadArgument, Conflict, Unavailable

_SILENT_SECONDS: Final = 60.0
_KEEP_SECONDS: Final = 60
_AT_ONCE: Final = 500
_MANIFEST: Final = "file {name} seq 1 type b\n"


def snapshot(url: str, target: IO[bytes]) -> int:
    """Write all keys of a server into a file, as they are at one moment; returns the bytes.

    Args:
        url: of the queue.
        target: the file.

    Raises:
        Unavailable: the server does not give a snapshot; the message says why.
    """
    with connect_sync(url) as client:
        connection = client.connection_pool.get_connection()
        try:
            connection.connect()
            connection.send_command("SYNC")
            return _receive(connection._sock, target)
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis gives no snapshot: {error}. A managed server may have one of its own") from None
        finally:
            connection.disconnect()


def _receive(stream: Any, target: IO[bytes]) -> int:
    """A length, and so many bytes; before that, signs of life while the server writes it down."""
    stream.settimeout(_SILENT_SECONDS)
    head = b""
    while not head.endswith(b"\n") or head == b"\n":
        head = b"" if head == b"\n" else head
        if not (byte := stream.recv(1)):
            raise ConnectionError("it closed the connection")
        head += byte
    if not head.startswith(b"$") or not head[1:].strip().isdigit():
        raise ConnectionError(head.decode(errors="replace").strip().lstrip("-"))
    size = left = int(head[1:])
    while left:
        if not (part := stream.recv(min(CHUNK, left))):
            raise ConnectionError("it closed the connection in the middle of it")
        target.write(part)
        left -= len(part)
    return size


@contextmanager
def loaded(file: Path) -> Iterator[redis.Redis]:
    """A server of one's own with what is in such a file, until the block ends.

    Raises:
        Unavailable: it cannot be read, or there is no server program.
    """
    with tempfile.TemporaryDirectory(prefix="telepatch-restore-") as folder:
        journal = Path(folder) / "appendonlydir"
        journal.mkdir()
        name = "appendonly.aof.1.base.rdb"
        (journal / name).symlink_to(file.absolute())
        (journal / "appendonly.aof.manifest").write_text(_MANIFEST.format(name=name))
        with embedded_valkey(Path(folder)) as url, connect_sync(url) as client:
            yield client


def is_empty(client: redis.Redis) -> bool:
    """Whether a server has no keys."""
    return int(client.dbsize()) == 0


def copy_into(source: redis.Redis, url: str) -> int:
    """Copy every key, with the time at which it goes; returns how many.

    Raises:
        Conflict: there are keys already.
        BadArgument: the server is too old for what is copied.
    """
    copied = 0
    with connect_sync(url) as target:
        if not is_empty(target):
            raise Conflict(
                f"the queue has {target.dbsize()} keys already; restore into an empty one: nothing is ever mixed or "
                "overwritten"
            )
        some: list[bytes] = []
        for key in source.scan_iter(count=_AT_ONCE):
            some.append(key)
            if len(some) == _AT_ONCE:
                copied += _copied(source, target, some)
                some = []
        return copied + _copied(source, target, some)


def _copied(source: redis.Redis, target: redis.Redis, names: list[bytes]) -> int:
    reading, writing = source.pipeline(transaction=False), target.pipeline(transaction=False)
    for name in names:
        reading.dump(name)
        reading.pexpiretime(name.decode("utf-8", "surrogateescape"))
    answers = reading.execute() if names else []
    for name, value, until in zip(names, answers[::2], answers[1::2], strict=True):
        if value is not None:  # else its time came meanwhile
            writing.restore(name, max(0, int(until)), value, absttl=until > 0)
    try:
        return len(writing.execute())
    except redis.ResponseError as error:
        works = "give it a server of the version that wrote it, or a newer one"
        raise BadArgument(f"the queue does not take what was backed up: {error}; {works}") from None


@asynccontextmanager
async def keeping_blobs(client: redis.asyncio.Redis) -> AsyncIterator[None]:
    """No blob is removed from the store while the block lasts, nor for a minute if this process dies in it."""

    async def again() -> None:
        while True:
            await client.set(keys.BACKUP, "1", ex=_KEEP_SECONDS)
            await asyncio.sleep(_KEEP_SECONDS / 4)

    await client.set(keys.BACKUP, "1", ex=_KEEP_SECONDS)
    keeping = asyncio.create_task(again())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await client.delete(keys.BACKUP)
