"""How jobs stand in the queue: their priority among one's own, and how long they may compute."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

from telepatch_protocol.errors import BadArgument
from telepatch_protocol.jobs import Priority

PRIORITIES: tuple[str, ...] = get_args(Priority)


@dataclass(frozen=True, slots=True)
class Queueing:
    """What was said of it; None for what was not."""

    priority: str | None = None
    timeout_seconds: float | None = None

    @staticmethod
    def of(priority: Any, timeout_seconds: Any) -> Queueing:
        """As an author said it.

        Raises:
            BadArgument: no priority, or no number of seconds.
        """
        if priority is not None and priority not in PRIORITIES:
            raise BadArgument(f"priority is {priority!r}; one of {', '.join(map(repr, PRIORITIES))} works")
        if timeout_seconds is None:
            return Queueing(priority)
        number = isinstance(timeout_seconds, int | float) and not isinstance(timeout_seconds, bool)
        if not number or not 0 < timeout_seconds < math.inf:
            raise BadArgument(f"timeout_seconds is {timeout_seconds!r}; a number of seconds above 0 works")
        return Queueing(priority, float(timeout_seconds))

    def over(self, other: Queueing) -> Queueing:
        """What is said here, and otherwise what is said there."""
        seconds = other.timeout_seconds if self.timeout_seconds is None else self.timeout_seconds
        return Queueing(self.priority or other.priority, seconds)

    def on_wire(self) -> dict[str, str | float]:
        """As fields of a job of a submission; nothing for what is usual."""
        said: dict[str, str | float] = {}
        if self.priority not in (None, "normal"):
            said["priority"] = str(self.priority)
        if self.timeout_seconds is not None:
            said["timeout_seconds"] = self.timeout_seconds
        return said


USUAL = Queueing()
"""Nothing was said."""
