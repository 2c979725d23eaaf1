"""Jobs that begin together, and those of them that have to begin again, in smaller company."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from telepatch_worker.batch import halves
from telepatch_worker.plan import Plan

if TYPE_CHECKING:
    from telepatch_worker.engine import BatchLimits


@dataclass(frozen=True, eq=False)
class Party:
    """Jobs that begin together.

    Attributes:
        plans: the jobs.
        limits: of one forward of theirs.
        apart: a number of their own where they share forwards with nobody else.
        sole: whether nobody else may be there at all.
    """

    plans: tuple[Plan, ...]
    limits: BatchLimits
    apart: int | None = None
    sole: bool = False


_NUMBERS = itertools.count()


class Retries:
    """Parties that begin again, one after the other."""

    def __init__(self) -> None:
        self._parties: deque[Party] = deque()

    def __len__(self) -> int:
        return len(self._parties)

    @property
    def plans(self) -> list[Plan]:
        """All jobs of all parties."""
        return [plan for party in self._parties for plan in party.plans]

    @property
    def closed(self) -> bool:
        """Whether one waits for everybody else to be gone."""
        return bool(self._parties) and self._parties[0].sole

    def next(self, present: Collection[Party]) -> Party | None:
        """The one that begins now, beside those who are there."""
        if not self._parties or any(party.apart is not None for party in present) or (self.closed and present):
            return None
        return self._parties.popleft()

    def split(self, plans: Sequence[Plan], limits: BatchLimits) -> None:
        """Several that failed together, or a single one that shared forwards: in halves, each apart from all others."""
        parts = halves(plans) if len(plans) > 1 else (plans,)
        self._parties.extendleft(Party(tuple(part), limits, next(_NUMBERS)) for part in reversed(parts))

    def clear_for(self, plan: Plan, limits: BatchLimits) -> None:
        """One that lacked memory: with nobody else there."""
        self._parties.appendleft(Party((plan,), limits, next(_NUMBERS), sole=True))
