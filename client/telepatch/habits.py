"""Noticing a program that looks at each value before it sends the next trace, and telling its author once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from telepatch.lines import here
from telepatch.outcome import Outcome

LOOKS = 6
"""How often the same line may wait for one job alone before its author is told."""


class SlowLoop(UserWarning):
    """A loop waits for each value before it submits the next trace, so nothing can run together."""


class Habits:
    """Counts waits at one line, each for the only job under way."""

    def __init__(self) -> None:
        self._line: str | None = None
        self._jobs: set[str] = set()
        self._told = False

    def waits(self, outcomes: Sequence[Outcome], under_way: int) -> None:
        """Somebody waits for these now, with so many jobs under way."""
        place = here()
        alone = len(outcomes) == 1 and under_way <= 1
        if self._told or place is None or not alone:
            return
        if str(place) != self._line:
            self._line, self._jobs = str(place), set()
        self._jobs.add(outcomes[0].job)
        if len(self._jobs) >= LOOKS:
            self._told = True
            warnings.warn_explicit(
                "this loop waits for each value before it submits the next trace, so no two of them run together; "
                "keep the values in a list and look at all of them after the loop: arrays = telepatch.gather(values)",
                SlowLoop,
                place.file,
                place.line,
            )
