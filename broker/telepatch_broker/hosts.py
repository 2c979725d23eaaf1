"""Which models are to be served, and which hosts serve them: each wanted copy is a seat, which a host has by a lease.

What is wanted stays until it is changed. A host that dies loses its seats, and others take them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable
from typing import Any, Final, Literal, cast

import redis.asyncio

from telepatch_broker import keys
from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import BadArgument, Conflict, NotFound
from telepatch_protocol.understood import understood

SEAT_SECONDS: Final = 15.0
"""How long after the death of a host its copies go to others."""

_CARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")

CopyState = Literal["loading", "ready", "draining", "failed"]
"""On its way; serves; finishes what it has; did not start or broke, and is tried again later."""


class Wanted(Frozen):
    """A model that is to be served: by so many workers, on one host or on any; `since` is a Unix time in seconds."""

    model: str
    replicas: int = 1
    host: str | None = None
    since: float = 0.0


class Copies(Frozen):
    """One copy of a model on a host.

    Attributes:
        model: which.
        number: of the copy, from 0, among all that are wanted.
        state: how it is.
        detail: why it is so, where that is not plain: what the worker said last.
        restarts: how often it was started again, since it last ran well.
        pid: of the worker.
    """

    model: str
    number: int
    state: CopyState
    detail: str = ""
    restarts: int = 0
    pid: int | None = None


class HostInfo(Frozen):
    """What a host says of itself; `seen` is when it was last heard of."""

    name: str
    pid: int
    started: float
    seen: float = 0.0
    ending: bool = False
    copies: tuple[Copies, ...] = ()


class Hosts:
    """What is wanted, and who serves it.

    Args:
        client: from `telepatch_broker.connection.connect`.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client

    # For those who run the service

    async def want(self, model: str, replicas: int = 1, host: str | None = None) -> Wanted:
        """Have a model served; hosts see it within a second.

        Raises:
            BadArgument: `model` is no id of a card.
            NotFound: no host of that name is alive.
            Conflict: no host is alive at all.
        """
        if not _CARD.fullmatch(model) or model.endswith(".toml"):
            raise BadArgument(f"{model!r} is no id of a model card; hosts load cards of their own models folder, by id")
        alive = {one.name for one in await self.alive()}
        if not alive:
            raise Conflict("no host is alive; start 'telepatch host' on a machine that is to serve models")
        if host is not None and host not in alive:
            raise NotFound(f"no host {host!r} is alive; there is {', '.join(sorted(alive))}")
        wanted = Wanted(model=model, replicas=replicas, host=host, since=time.time())
        pipeline = self._redis.pipeline()
        pipeline.hset(keys.WANTED, model, wanted.model_dump_json())
        pipeline.srem(keys.UNLOADED, model)
        await pipeline.execute()
        return wanted

    async def want_no_more(self, model: str) -> None:
        """Have hosts unload a model; whoever sends it a job is told that it waits.

        Raises:
            NotFound: it is not wanted; the message names those that are.
        """
        if not await _awaited(self._redis.hdel(keys.WANTED, model)):
            names = ", ".join(sorted(await self.wanted())) or "none"
            raise NotFound(
                f"no host is to serve {model!r}; hosts are to serve {names}. 'telepatch drain' ends a worker"
            )
        await _awaited(self._redis.sadd(keys.UNLOADED, model))

    async def wanted(self) -> dict[str, Wanted]:
        """All that is wanted, by model."""
        found = await _awaited(self._redis.hgetall(keys.WANTED))
        return {name.decode(): understood(Wanted, text) for name, text in sorted(found.items())}

    async def alive(self) -> list[HostInfo]:
        """All hosts that are alive."""
        names = sorted(name.decode() for name in await _awaited(self._redis.smembers(keys.HOSTS)))
        texts = await _awaited(self._redis.mget([keys.host(name) for name in names])) if names else []
        return [understood(HostInfo, text) for text in texts if text is not None]

    # For hosts

    async def tell(self, info: HostInfo) -> None:
        """Say that a host is alive, and what it does."""
        keys.check_name("host", info.name)
        pipeline = self._redis.pipeline()
        text = info.model_copy(update={"seen": time.time()}).model_dump_json()
        pipeline.set(keys.host(info.name), text, px=round(SEAT_SECONDS * 1000))
        pipeline.sadd(keys.HOSTS, info.name)
        await pipeline.execute()

    async def leave(self, host: str) -> None:
        """Say that a host ends."""
        await self._redis.delete(keys.host(host))
        await _awaited(self._redis.srem(keys.HOSTS, host))

    async def take_seat(self, model: str, number: int, host: str) -> bool:
        """Take one of the wanted copies, or keep it; whether it is this host's now."""
        key, ms = keys.seat(model, number), round(SEAT_SECONDS * 1000)
        if await self._redis.set(key, host, px=ms, nx=True):
            return True
        if await self._redis.get(key) != host.encode():
            return False
        await self._redis.pexpire(key, ms)
        return True

    async def leave_seat(self, model: str, number: int, host: str) -> None:
        """Let others have it."""
        if await self._redis.get(keys.seat(model, number)) == host.encode():
            await self._redis.delete(keys.seat(model, number))


async def _awaited(answer: Awaitable[Any] | Any) -> Any:
    """An answer of the client, whose annotations leave open whether it must be awaited."""
    return await cast("Awaitable[Any]", answer)
