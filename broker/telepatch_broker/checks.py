"""What has to be right about the queue and the blob store, for a process to start and for ``telepatch check``."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import redis.asyncio
from redis.exceptions import RedisError

from telepatch_broker import keys
from telepatch_broker.blobs import Blobs, DirectoryBlobs
from telepatch_broker.connection import check
from telepatch_broker.places import without_password
from telepatch_broker.schema import check_schema
from telepatch_broker.shared import check_own, check_shared
from telepatch_protocol.errors import TelepatchError, Unavailable
from telepatch_protocol.findings import Finding, refuse_failures

OLDEST: Final = (6, 2)
"""The oldest Redis that has every command that is used."""

_FULL = 0.8
_LITTLE_ROOM = 2**30
_NO_ROOM = 64 * 2**20
_HERE = ("127.0.0.1", "localhost", "::1", "")


async def at_start(client: redis.asyncio.Redis, blobs: Blobs, url: str) -> list[Finding]:
    """Look at the queue and the blob store before anything is served.

    Args:
        client: of the queue.
        blobs: where results are.
        url: of the queue.

    Returns:
        What should be told as a warning.

    Raises:
        Unavailable: something does not work.
    """
    return refuse_failures([one async for one in of_places(client, blobs, url)])


async def of_places(client: redis.asyncio.Redis, blobs: Blobs, url: str) -> AsyncIterator[Finding]:
    """Everything about the queue and the blob store, one after the other; ends where nothing more can be asked."""
    answers = await _one("queue", check(client), without_password(url))
    yield answers
    if answers.level == "fail":
        return
    for found in await _of_server(client, url):
        yield found
    yield await _one("version of the queue", check_schema(client), "known")
    yield await of_writes(client)
    yield await _one(
        "blob store", check_shared(blobs, client), f"written, read, and shared with the others: {_where(blobs)}"
    )
    if isinstance(blobs, DirectoryBlobs):
        yield of_room("disk of the blob store", blobs.directory)


async def of_writes(client: redis.asyncio.Redis) -> Finding:
    """Whether the queue takes writes: a replica does not, nor one that is full or cannot write its journal."""
    try:
        await client.set(keys.PROBE, "1", px=1000)
    except (RedisError, OSError) as error:
        works = "give it memory or disk room, or point TELEPATCH_REDIS_URL at the primary"
        return Finding("queue takes writes", "fail", f"no: {str(error)[:200]}", works)
    return Finding("queue takes writes", "ok", "yes")


def of_room(what: str, folder: Path) -> Finding:
    """How much room the disk of a folder has."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / 2**30:.1f} GiB free for {folder}"
    if free < _NO_ROOM:
        return Finding(what, "fail", found, f"{_NO_ROOM // 2**20} MiB is the least; make room, or take another folder")
    if free < _LITTLE_ROOM:
        return Finding(
            what, "warn", found, "make room before it is full: results that cannot be written fail their jobs"
        )
    return Finding(what, "ok", found)


async def _one(what: str, looking: Any, well: str) -> Finding:
    """What a check that raises has found."""
    try:
        await looking
    except (TelepatchError, RedisError, OSError) as error:
        return Finding(what, "fail", str(error))
    return Finding(what, "ok", well)


async def _of_server(client: redis.asyncio.Redis, url: str) -> list[Finding]:
    try:
        info = await client.info()
    except RedisError as error:
        return [Finding("queue tells of itself", "warn", f"no: {error}", "allow the command INFO to this user")]
    looked = (*_version(info), *_role(info), *_journal(info), *_memory(info), *_privacy(url))
    return list(looked)


def _version(info: Mapping[str, Any]) -> Iterator[Finding]:
    name = str(info.get("server_name") or "redis")
    said = str(info.get("redis_version", "0"))
    shown = f"{name} {info.get('valkey_version') or said}"
    parts = tuple(int(part) for part in said.split(".")[:2] if part.isdigit())
    level = "ok" if parts >= OLDEST else "fail"
    yield Finding("queue server", level, shown, "" if level == "ok" else "Redis 6.2 or newer, or Valkey, works")  # type: ignore[arg-type]


def _role(info: Mapping[str, Any]) -> Iterator[Finding]:
    if info.get("role", "master") != "master":
        works = "point TELEPATCH_REDIS_URL at the primary"
        yield Finding("queue is a primary", "fail", f"no, a {info['role']} of {info.get('master_host')}", works)
    if info.get("cluster_enabled"):
        works = "use one primary: steps of the queue touch keys of several models"
        yield Finding("queue is not sharded", "fail", "it is a cluster", works)


def _journal(info: Mapping[str, Any]) -> Iterator[Finding]:
    if not info.get("aof_enabled"):
        works = "start the server with --appendonly yes: accepted jobs are lost when it dies"
        yield Finding("queue's journal", "warn", "off", works)
    elif info.get("aof_last_write_status", "ok") != "ok":
        yield Finding("queue's journal", "fail", "the last write failed", "make room on the server's disk")
    else:
        yield Finding("queue's journal", "ok", "on")


def _memory(info: Mapping[str, Any]) -> Iterator[Finding]:
    policy, most, used = (
        info.get("maxmemory_policy", "noeviction"),
        info.get("maxmemory", 0),
        info.get("used_memory", 0),
    )
    if policy != "noeviction":
        works = "set --maxmemory-policy noeviction: any other throws accepted jobs away when memory is short"
        yield Finding("queue keeps everything", "fail" if most else "warn", f"maxmemory-policy {policy}", works)
    else:
        yield Finding("queue keeps everything", "ok", "maxmemory-policy noeviction")
    room = f"{used / 2**20:,.0f} MiB used" + (f" of {most / 2**20:,.0f} MiB" if most else ", no limit")
    full = most and used > _FULL * most
    works = "raise maxmemory, or keep results for less time (TELEPATCH_RESULT_SECONDS); a full queue takes no jobs"
    yield Finding("queue's memory", "warn" if full else "ok", room, works if full else "")


def _privacy(url: str) -> Iterator[Finding]:
    parts = urlsplit(url)
    if parts.scheme == "unix" or (parts.hostname or "") in _HERE:
        return
    if not parts.password:
        works = "whoever reaches the queue can read and change everybody's jobs: TELEPATCH_REDIS_PASSWORD_FILE"
        yield Finding("queue asks for a password", "warn", "no", works)
    if parts.scheme != "rediss":
        works = "rediss:// encrypts what goes over the network; a private network may do"
        yield Finding("queue over TLS", "warn", "no", works)


def _where(blobs: Blobs) -> str:
    return str(getattr(blobs, "directory", None) or getattr(blobs, "place", None) or "through the gateway")


class Readiness:
    """Whether the queue takes writes and the blob store does; asked often, looked at every few seconds.

    Args:
        client: of the queue.
        blobs: where results are.
        seconds: how long an answer is good.
    """

    def __init__(self, client: redis.asyncio.Redis, blobs: Blobs, seconds: float = 3.0) -> None:
        self._client, self._blobs, self._seconds = client, blobs, seconds
        self._lock = asyncio.Lock()
        self._trouble: str | None = None
        self._asked = float("-inf")

    async def trouble(self) -> str | None:
        """What is wrong; None where nothing is."""
        async with self._lock:
            loop = asyncio.get_running_loop()
            if loop.time() - self._asked > self._seconds:
                self._trouble = await self._look()
                self._asked = loop.time()
            return self._trouble

    async def _look(self) -> str | None:
        if (writes := await of_writes(self._client)).level == "fail":
            return str(writes)
        try:
            await check_own(self._blobs)
        except Unavailable as error:
            return error.detail
        return None
