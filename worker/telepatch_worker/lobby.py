"""Who waits to generate, and who is let in: first come, first served, as far as there is room."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from telepatch_protocol.errors import TooLarge
from telepatch_worker.company import Member


@dataclass(frozen=True)
class Room:
    """How much goes on at once.

    Attributes:
        rows: of all generations.
        tokens: positions of one forward over prompts, padding included.
        bytes: of all caches, as they will be at their ends, without padding; None for no limit. What takes more by
            itself is refused.
    """

    rows: int = 256
    tokens: int = 16_384
    bytes: int | None = None

    def refuse_too_big(self, bytes: int) -> None:
        """Refuse what will never fit.

        Raises:
            TooLarge: with both numbers.
        """
        if self.bytes is not None and bytes > self.bytes:
            raise TooLarge(
                f"the keys and values of a generation take {bytes:,} bytes at its end; this worker has {self.bytes:,} "
                "for those of all generations. Generate fewer tokens, from a shorter prompt, or in fewer rows"
            )


@dataclass(frozen=True)
class Unit:
    """Generations of one owner that begin together, and share forwards with those of the same kind."""

    members: tuple[Member, ...]
    alone: bool
    bytes: int
    kind: Hashable = None

    @property
    def rows(self) -> int:
        """Of all members."""
        return sum(member.rows for member in self.members)

    @property
    def longest(self) -> int:
        """Positions of the longest prompt."""
        return max(member.prompt_length for member in self.members)

    @property
    def over(self) -> bool:
        """Whether none of them takes a further step."""
        return all(member.over for member in self.members)


class Lobby:
    """Those who wait, and what those who were let in take up.

    Args:
        room: that there is.
    """

    def __init__(self, room: Room) -> None:
        self.room = room
        self._waiting: deque[Unit] = deque()
        self._inside: list[Unit] = []

    def __iter__(self) -> Iterator[Unit]:
        """Everybody, inside or not."""
        yield from self._waiting
        yield from self._inside

    @property
    def empty(self) -> bool:
        """Whether nobody waits."""
        return not self._waiting

    @property
    def bytes(self) -> int:
        """That the caches of those inside take, as they will be at their ends."""
        return sum(unit.bytes for unit in list(self._inside) if not unit.over)

    @property
    def waiting(self) -> Iterator[Unit]:
        """Those who were not let in yet."""
        return iter(self._waiting)

    def add(self, unit: Unit) -> None:
        """One more."""
        self._waiting.append(unit)

    def admit(self) -> list[Unit]:
        """Let in those for whom there is room now; who has left is forgotten."""
        new: list[Unit] = []
        self._inside = [unit for unit in self._inside if not unit.over]
        while self._waiting:
            unit = self._waiting[0]
            if not unit.over and (self._inside or new) and not self._fits([*new, unit]):
                break
            self._waiting.popleft()
            if not unit.over:
                new.append(unit)
        self._inside += new
        return new

    def _fits(self, new: Sequence[Unit]) -> bool:
        everyone = [*self._inside, *new]
        return (
            sum(unit.rows for unit in everyone) <= self.room.rows
            and sum(unit.rows for unit in new) * max(unit.longest for unit in new) <= self.room.tokens
            and (self.room.bytes is None or sum(unit.bytes for unit in everyone) <= self.room.bytes)
        )
