"""What an engine tells of its work to whoever counts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Forward:
    """One forward that was run.

    Attributes:
        jobs: ids of those that had rows in it.
        rows: how many rows.
        tokens: positions, padding included.
        seconds: how long it took on the host; on a GPU what it still computes by then is not in it.
    """

    jobs: Sequence[str]
    rows: int
    tokens: int
    seconds: float


class Meter:
    """Hears of everything, and does nothing with it."""

    def planned(self, job: str, seconds: float) -> None:
        """A job was checked and planned."""

    def forward(self, forward: Forward) -> None:
        """A forward was run."""
