"""How a deployment stands, for those who watch it: queues, what happened so far, workers' numbers, Redis itself."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.jobs import LaneName
from telepatch_broker.scripting import Scripts

_LANES: tuple[LaneName, ...] = ("interactive", "long")
_MOST_PEOPLE = 2000
_PEOPLE_AT_ONCE = 100


@dataclass(frozen=True)
class Queue:
    """One lane of a model.

    Attributes:
        lane: which.
        people: that have jobs there.
        jobs: that are ready to be taken.
        oldest: seconds that the oldest of them has waited; 0 if there is none.
        longest: the people with the most, and how many.
    """

    lane: LaneName
    people: int
    jobs: int
    oldest: float
    longest: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Totals:
    """What happened to the jobs of a model since ever.

    Attributes:
        attempts: times that a worker took one.
        reclaimed: leases that ran out.
        failed: jobs by the code of their error.
    """

    attempts: int
    reclaimed: int
    failed: dict[str, int]


@dataclass(frozen=True)
class Server:
    """Redis itself.

    Attributes:
        memory: bytes that it uses.
        limit: bytes that it may use; 0 for no limit.
        clients: connections.
        keys: how many.
        quarantined: jobs that are kept in quarantine.
        journal: whether it keeps one.
        journal_ok: whether that was last written and rewritten without trouble.
    """

    memory: int
    limit: int
    clients: int
    keys: int
    quarantined: int
    journal: bool
    journal_ok: bool


class Condition:
    """Reads how things stand; changes nothing.

    Args:
        client: from `telepatch_broker.connection.connect`.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        self._run = Scripts(client)

    async def queues(self, model: str, *, named: int = 0) -> list[Queue]:
        """Both lanes of a model, of the first 2,000 people in each, with the `named` people who have most."""
        return [await self._queue(model, lane, named) for lane in _LANES]

    async def _queue(self, model: str, lane: LaneName, named: int) -> Queue:
        """A lane, some people at a time: nobody else is served while a script looks."""
        people, seen, jobs, oldest = 1, 0, 0, 0
        lengths: dict[str, int] = {}
        while seen < min(people, _MOST_PEOPLE):
            last = seen + _PEOPLE_AT_ONCE - 1
            place = "long" if lane == "long" else ""
            people, some, age, longest = await self._run("queues", model, place, seen, last, named)
            jobs, oldest, seen = jobs + some, max(oldest, age), last + 1
            lengths |= {name.decode(): int(number) for name, number in zip(longest[::2], longest[1::2], strict=True)}
        most = sorted(lengths.items(), key=lambda one: (-one[1], one[0]))[:named]
        return Queue(lane, people, jobs, oldest / 1000, tuple(most))

    async def totals(self, model: str) -> Totals:
        """What happened to its jobs."""
        key = keys.of_model(model, "totals")
        found = await cast("Awaitable[dict[bytes, bytes]]", self._redis.hgetall(key))
        numbers = {name.decode(): int(number) for name, number in found.items()}
        failed = {name.removeprefix("failed:"): numbers[name] for name in sorted(numbers) if name.startswith("failed:")}
        return Totals(numbers.get("attempts", 0), numbers.get("reclaimed", 0), failed)

    async def numbers(self, workers: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What workers counted of themselves, by their ids, as far as they told."""
        if not workers:
            return {}
        texts = await self._redis.mget([keys.numbers(id) for id in workers])
        return {id: json.loads(text) for id, text in zip(workers, texts, strict=True) if text is not None}

    async def server(self) -> Server:
        """Redis itself."""
        info = {**await self._redis.info("memory"), **await self._redis.info("persistence")}
        info |= await self._redis.info("clients")
        written = (info.get("aof_last_write_status", "ok"), info.get("aof_last_bgrewrite_status", "ok"))
        return Server(
            memory=int(info["used_memory"]),
            limit=int(info.get("maxmemory", 0)),
            clients=int(info["connected_clients"]),
            keys=int(await self._redis.dbsize()),
            quarantined=int(await self._redis.zcard(keys.QUARANTINE)),
            journal=bool(int(info.get("aof_enabled", 0))),
            journal_ok=written == ("ok", "ok"),
        )
