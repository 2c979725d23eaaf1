"""Connections to Redis or Valkey that survive a restart of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, OutOfMemoryError, RedisError, TimeoutError
from redis.retry import Retry

from telepatch_protocol.errors import BadArgument, Unavailable

READ_SECONDS = 10.0
"""How long an answer may take; calls that block in the server ask for less than that."""

BLOCK_SECONDS = 2.0
"""The longest time that a call of this room blocks in the server."""

LOST: tuple[type[Exception], ...] = (RedisError,)
"""What calls of this room raise once Redis has been away for too long; for rooms that do not know redis."""

_FULL = "OOM command not allowed"
_REFUSES = ("MISCONF", "NOREPLICAS", "READONLY", "read only replica")
"""How a server says that it does not write: its disk fails, its replicas are away, or it is a replica itself."""

_CONNECTIONS = 64
_RETRIES = 20
_POOL_SECONDS = 20.0
"""A call that finds all connections busy waits for one that long."""

_TRANSIENT: list[type[Exception]] = [ConnectionError, TimeoutError, BusyLoadingError]


def connect(url: str) -> redis.asyncio.Redis:
    """A client that reconnects by itself and repeats what failed in between, for some 15 seconds.

    Nothing is sent before the first call. Every step of this room can be repeated without harm.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.

    Raises:
        BadArgument: `url` is none of these.
    """
    pool: redis.asyncio.BlockingConnectionPool = _build(
        redis.asyncio.BlockingConnectionPool.from_url, url, AsyncRetry, timeout=_POOL_SECONDS
    )
    return redis.asyncio.Redis.from_pool(pool)


def connect_sync(url: str) -> redis.Redis:
    """The same for code that runs in threads of its own, which is RQ."""
    client: redis.Redis = _build(redis.Redis.from_url, url, Retry)
    return client


def _build(from_url: Callable[..., Any], url: str, retry: Callable[..., Any], **more: Any) -> Any:
    try:
        return from_url(
            url,
            max_connections=_CONNECTIONS,
            socket_timeout=READ_SECONDS,
            socket_connect_timeout=READ_SECONDS / 2,
            retry=retry(ExponentialWithJitterBackoff(base=0.02, cap=1.0), _RETRIES),
            retry_on_error=_TRANSIENT,
            **more,
        )
    except ValueError as error:
        # What stands before the @ is a password.
        shown = url.rpartition("@")[2]
        detail = f"{shown!r} is no address of Redis, such as redis://127.0.0.1:6379/0: {error}"
        raise BadArgument(detail) from None


async def check(client: redis.asyncio.Redis) -> None:
    """Ask the server for a sign of life.

    Raises:
        Unavailable: there was none.
    """
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        raise Unavailable(f"Redis does not answer: {error}") from None


def is_full(error: Exception) -> bool:
    """Whether Redis says that it may take no more memory."""
    return isinstance(error, OutOfMemoryError) or _FULL in str(error)


def what_is_wrong(error: Exception) -> str:
    """What one of `LOST` means for those who want something of this service."""
    if is_full(error):
        return (
            "the queue of this service is full: it takes nothing new until some of what it holds has ended or expired. "
            "Jobs that were accepted go on. Try again later; for whoever runs it, the run-book has 'Redis is full'"
        )
    if any(word in str(error) for word in _REFUSES):
        return (
            "the queue of this service can be read and not written to just now. Jobs that were accepted wait. Try "
            "again later; for whoever runs it, the run-book has 'Redis does not write'"
        )
    return "the queue of this service cannot be reached; try again in a moment"


async def now_ms(client: redis.asyncio.Redis) -> int:
    """The server's clock in milliseconds, as the scripts read it."""
    seconds, microseconds = await client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def follow(client: redis.asyncio.Redis, channel: str) -> AsyncIterator[bytes | None]:
    """Messages of a channel, for ever; None whenever the connection is new, and messages before it may be lost."""
    pause = 0.05
    while True:
        try:
            async with client.pubsub() as subscription:
                await subscription.subscribe(channel)
                while True:
                    message = await subscription.get_message(timeout=BLOCK_SECONDS)
                    if message is None:
                        continue
                    pause = 0.05
                    yield message["data"] if message["type"] == "message" else None
        except (RedisError, OSError):
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task that talks to Redis, and wait until it is over.

    Once may not be enough: redis-py can lose a cancellation that comes while it reconnects.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.5)
