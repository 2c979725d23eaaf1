"""Event streams: one per person, capped, readable from any place in it; and the hub that follows them all at once."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Literal, Self, cast

import redis.asyncio
from redis.exceptions import RedisError

from telepatch_broker import keys
from telepatch_broker.connection import end, follow
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.jobs import ENDED, Event

KEPT = 10_000
"""About how many events of a person are kept; ``scripts/common.lua`` has the same number."""

START = "0-0"
"""The place before the first event."""

_PLACE = re.compile(r"\d{1,19}-\d{1,19}", re.ASCII)  # more may not fit into the 64 bits of Redis
SOON = "soon "
"""What stands before the name of a person who need not look at once; ``scripts/common.lua`` has the same."""

_SOON_SECONDS = 0.05
_RECHECK_SECONDS = 15.0
AT_ONCE = 500
"""The most events that are told together."""


EventType = Literal["waiting", "queued", "running", "progress", "log", "values", "completed", "failed", "cancelled"]


class EventLog:
    """The streams themselves.

    Args:
        client: from `telepatch_broker.connection.connect`.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client

    async def append(self, person: str, type: EventType, job: str, data: Mapping[str, Any]) -> str:
        """Tell a person something about a job; returns its place in the stream.

        State changes append theirs by themselves, and a worker says what it has to say with `Lane.note`.
        """
        fields: dict[Any, Any] = {"type": type, "job": job, "at": round(time.time() * 1000), "data": json.dumps(data)}
        place = await self._redis.xadd(keys.events_of(person), fields, maxlen=KEPT, approximate=True)
        await self._redis.publish(keys.DOORBELL, person)
        return cast("bytes", place).decode()

    async def read(self, person: str, after: str, count: int = AT_ONCE) -> list[Event]:
        """Events behind the place `after`, oldest first, at most `count`.

        Raises:
            BadArgument: `after` is not a place in a stream.
        """
        rows = await self._redis.xrange(keys.events_of(person), f"({check_place(after)}", "+", count)
        return [_event(place, fields) for place, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", rows)]

    async def last(self, person: str) -> str:
        """The place of the newest event."""
        rows = cast("list[tuple[bytes, Any]]", await self._redis.xrevrange(keys.events_of(person), count=1))
        return rows[0][0].decode() if rows else START

    async def missed(self, person: str, after: str) -> bool:
        """Whether events behind `after` are no longer kept, so that states must be asked for instead."""
        key = keys.events_of(person)
        if not await self._redis.exists(key):
            return False
        about = await self._redis.xinfo_stream(key)
        if about["entries-added"] <= about["length"] or about["first-entry"] is None:
            return False
        return _order(check_place(after)) < _order(about["first-entry"][0].decode())


class EventHub:
    """Follows the streams of any number of people over one connection; one per gateway process.

    The streams are the truth, and what travels over the connection is only a knock. So nothing is missed: not between
    what is read again and what is new, and not while Redis is away.

    Example:
        >>> async with EventHub(client) as hub, hub.listen("ada") as events:
        ...     async for event in events:
        ...         print(event.type, event.job)
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        self._log = EventLog(client)
        self._knocks: dict[str, set[asyncio.Event]] = {}
        self._soon: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await end(self._task)

    @asynccontextmanager
    async def listen(self, person: str, after: str | None = None) -> AsyncIterator[AsyncIterator[Event]]:
        """All events of a person from here on, or behind the place `after`; they end when the block ends.

        Raises:
            BadArgument: `after` is not a place in a stream.
        """
        async with self.bunches(person, after) as bunches, aclosing(_each(bunches)) as events:
            yield events

    @asynccontextmanager
    async def bunches(self, person: str, after: str | None = None) -> AsyncIterator[AsyncIterator[list[Event]]]:
        """As `listen`, with all that is new at a time together.

        Raises:
            BadArgument: `after` is not a place in a stream.
        """
        await self._ready.wait()
        knock = asyncio.Event()
        place = await self._log.last(person) if after is None else check_place(after)
        self._knocks.setdefault(person, set()).add(knock)
        bunches = self._bunches(person, place, knock)
        try:
            yield bunches
        finally:
            await bunches.aclose()
            self._knocks[person].discard(knock)
            if not self._knocks[person]:
                del self._knocks[person]

    async def wait_for(self, person: str, ids: Sequence[str], timeout_seconds: float) -> set[str]:
        """Wait until these jobs have ended, or the time is over; returns those that have ended.

        Ids that are not of this person's jobs never end.
        """
        wanted, ended = frozenset(ids), set[str]()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds), self.listen(person) as events:
                # Whatever ended before is seen here, and whatever ends later is an event.
                ended |= await self._ended(person, wanted)
                while not ended >= wanted:
                    event = await anext(events)
                    if event.job in wanted and event.type in ENDED:
                        ended.add(event.job)
        return ended

    async def _ended(self, person: str, ids: Iterable[str]) -> set[str]:
        pipeline = self._redis.pipeline(transaction=False)
        wanted = [keys.check_id(id) for id in ids]
        for id in wanted:
            pipeline.hmget(keys.job(id), ["person", "state"])
        rows = await pipeline.execute()
        return {
            id for id, (owner, state) in zip(wanted, rows, strict=True)
            if owner == person.encode() and state.decode() in ENDED
        }  # fmt: skip

    async def _bunches(self, person: str, place: str, knock: asyncio.Event) -> AsyncGenerator[list[Event], None]:
        while True:
            knock.clear()
            if found := await self._read(person, place):
                place = found[-1].id
                yield found
            if len(found) < AT_ONCE:
                with suppress(TimeoutError):
                    await asyncio.wait_for(knock.wait(), _RECHECK_SECONDS)

    async def _follow(self) -> None:
        async for knock in follow(self._redis, keys.DOORBELL):
            if knock is not None:
                person = knock.decode()
                if person.startswith(SOON):
                    self._knock_soon(person.removeprefix(SOON))
                else:
                    self._knock(person)
                continue
            self._ready.set()
            # Somebody may have knocked while nobody listened.
            for name in self._knocks:
                self._knock(name)

    async def _read(self, person: str, place: str) -> list[Event]:
        """What is new; nothing while Redis is away, for however long."""
        try:
            return await self._log.read(person, place)
        except (RedisError, OSError):
            await asyncio.sleep(0.5)
            self._knock(person)
            return []

    def _knock_soon(self, person: str) -> None:
        """What can wait is told together with what comes next."""
        if person in self._knocks and person not in self._soon:
            self._soon.add(person)
            asyncio.get_running_loop().call_later(_SOON_SECONDS, self._knock, person)

    def _knock(self, person: str) -> None:
        self._soon.discard(person)
        for knock in self._knocks.get(person, ()):
            knock.set()


async def _each(bunches: AsyncIterator[list[Event]]) -> AsyncGenerator[Event, None]:
    async for bunch in bunches:
        for event in bunch:
            yield event


def check_place(place: str) -> str:
    """A place in a stream, as the id of an event gives it.

    Raises:
        BadArgument: it is not one.
    """
    if not _PLACE.fullmatch(place):
        raise BadArgument(f"{place!r} is no place in an event stream; the id of an event is one, or {START!r}")
    return place


def _order(place: str) -> tuple[int, int]:
    milliseconds, _, number = place.partition("-")
    return int(milliseconds), int(number)


def _event(place: bytes, fields: Mapping[bytes, bytes]) -> Event:
    return Event(
        id=place.decode(),
        type=cast("EventType", fields[b"type"].decode()),
        job=fields[b"job"].decode(),
        at=int(fields[b"at"]) / 1000,
        data=json.loads(fields[b"data"]),
    )
