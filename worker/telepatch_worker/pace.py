"""How much goes into one turn, so that whoever comes in the middle of one does not wait for long."""

from __future__ import annotations

LEAST_TOKENS = 64
"""What a turn may hold in any case."""

BEGIN_TOKENS = 512
"""What the first turn may hold, when nothing is known of how long one takes."""


class Pace:
    """Learns from the turns that there were how many tokens the next one may hold.

    A turn that took too long makes the next ones as much smaller as it was too long; one that was well filled and over
    early makes them larger, at most twofold.

    Args:
        most: tokens that a turn may hold however short it is.
        seconds: how long a turn shall take at the most.

    Example:
        >>> pace = Pace(4096, 0.5)
        >>> pace.took(512, 1.0)
        >>> pace.room
        256
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self.room = min(most, BEGIN_TOKENS)

    def took(self, tokens: int, seconds: float) -> None:
        """A turn of so many tokens took so long."""
        if tokens < 1 or seconds <= 0:
            return
        left = self._seconds / seconds
        if left < 1:
            self.room = max(min(LEAST_TOKENS, self._most), int(min(self.room, tokens) * left))
        elif 2 * tokens >= self.room:
            self.room = min(self._most, int(self.room * min(2.0, left)) + 1)
