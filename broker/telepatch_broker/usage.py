"""What people use up: jobs, seconds of workers and bytes of results by day, and what they have at the moment.

The scripts that end jobs write it down in the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.connection import now_ms
from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import BadArgument

DAYS_KEPT: Final = 400
"""How many days back accounts go; ``common.lua`` has the same number."""

_EPOCH: Final = date(1970, 1, 1)


class Used(Frozen):
    """What somebody has used up.

    Attributes:
        jobs: that ran and ended.
        seconds: of workers; those of shared forwards are divided among the jobs that share.
        bytes: of results.
    """

    jobs: int = 0
    seconds: float = 0.0
    bytes: int = 0


class Day(Used):
    """What a person has used up on a day (UTC)."""

    person: str
    day: date


class Standing(Frozen):
    """What a person has at the moment.

    Attributes:
        jobs_queued: jobs that have not ended.
        uploads: bytes of uploads.
        results: bytes of results that are kept.
        promised: bytes that unended jobs will save.
        today: what was used up since midnight, UTC.
    """

    jobs_queued: int
    uploads: int
    results: int
    promised: int
    today: Used

    @property
    def bytes_stored(self) -> int:
        """All that counts as stored."""
        return self.uploads + self.results + self.promised


class Usage:
    """The accounts of everybody.

    Args:
        client: from `telepatch_broker.connection.connect`.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client

    async def standing(self, person: str) -> Standing:
        """What a person has now."""
        pipeline = self._redis.pipeline(transaction=False)
        for where in (keys.UNENDED, keys.UPLOADED, keys.STORED, keys.PROMISED):
            pipeline.hget(where, person)
        pipeline.hgetall(keys.usage(person, _number(await self._today())))
        *numbers, today = await pipeline.execute()
        jobs, uploads, results, promised = (max(0, int(number or 0)) for number in numbers)
        return Standing(jobs_queued=jobs, uploads=uploads, results=results, promised=promised, today=_used(today))

    async def days(self, people: Sequence[str], days: int) -> list[Day]:
        """What people have used up on each of the last days, today the last; days without anything are left out.

        Raises:
            BadArgument: days that are no longer kept.
        """
        if not 1 <= days <= DAYS_KEPT:
            raise BadArgument(f"the usage of {days} days was asked for; 1 to {DAYS_KEPT} days can be")
        today = await self._today()
        wanted = [today - timedelta(days=back) for back in reversed(range(days))]
        found: list[Day] = []
        for person in people:
            pipeline = self._redis.pipeline(transaction=False)
            for day in wanted:
                pipeline.hgetall(keys.usage(person, _number(day)))
            rows = zip(wanted, await pipeline.execute(), strict=True)
            found += [Day(person=person, day=day, **_used(row).model_dump()) for day, row in rows if row]
        return found

    async def _today(self) -> date:
        """By the server's clock, as the scripts have it."""
        return datetime.fromtimestamp(await now_ms(self._redis) / 1000, UTC).date()


def _number(day: date) -> int:
    return (day - _EPOCH).days


def _used(row: dict[bytes, bytes]) -> Used:
    return Used(jobs=int(row.get(b"jobs", 0)), seconds=int(row.get(b"us", 0)) / 1e6, bytes=int(row.get(b"bytes", 0)))


def seconds_to_midnight(now: float) -> float:
    """How long, from a Unix time on, until the accounts of a new day begin."""
    return 86400 - now % 86400
