"""What ranks that hold one model together decide alike.

Every rank runs the same jobs on its shard, and meets the others in the collectives of each forward: so all must take
the same decisions. What follows from the jobs is the same on every rank anyway. What depends on the clock, on chance or
on the queue is decided by one rank, and the others do as it says. A worker alone agrees with itself.
"""

from __future__ import annotations

from collections.abc import Sequence


class Accord:
    """A worker alone: it does as it thinks, at once."""

    def say(self, number: int) -> int:
        """A decision, as it is taken everywhere."""
        return number

    def says(self, numbers: Sequence[int]) -> list[int]:
        """Several decisions, as they are taken everywhere."""
        return [*numbers]

    def due(self) -> bool:
        """Whether it is time to ask whether jobs have to stop; that is asked so often that several ranks do not agree
        on it each time."""
        return True

    def failed(self, job: str, code: str) -> None:
        """A job has failed here: does not return where it has not failed so everywhere."""


ALONE = Accord()
