"""What a person sees while they wait: where their job is, on one line of standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Self

from telepatch.outcome import Outcome

PATIENCE_S = 0.5
"""Seconds before anything is shown."""

_EVERY_S = 1.0


class Progress:
    """A line that follows the slowest of several jobs.

    Use it as a context manager: the line goes away at the end.

    Args:
        outcomes: the jobs.
        shown: whether anything is written.
        silent: whether the gateway does not answer at the moment.
    """

    def __init__(
        self, outcomes: Sequence[Outcome], *, shown: bool = True, silent: Callable[[], bool] = lambda: False
    ) -> None:
        self._silent = silent
        self._outcomes = outcomes
        self._shown = shown
        self._begun = time.monotonic()
        self._last: tuple[str, float] = ("", 0.0)
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width and sys.stderr.isatty():
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()

    def tick(self) -> None:
        """Show how things are, if that has changed and enough time has passed."""
        waited = time.monotonic() - self._begun
        state = "the gateway does not answer; trying again" if self._silent() else self._state()
        if not self._shown or waited < PATIENCE_S or not state:
            return
        if sys.stderr.isatty():
            text = f"telepatch: {state} ({waited:.1f} s)"
            sys.stderr.write("\r" + text.ljust(self._width))
            self._width = len(text)
        elif state != self._last[0] and waited - self._last[1] >= _EVERY_S * bool(self._last[0]):
            sys.stderr.write(f"telepatch: {state} ({waited:.1f} s)\n")
            self._last = (state, waited)
        sys.stderr.flush()

    def _state(self) -> str:
        return describe(self._outcomes)


def describe(outcomes: Sequence[Outcome]) -> str:
    """The state of the jobs that have not ended."""
    left = [outcome for outcome in outcomes if not outcome.ended.is_set()]
    if not left:
        return "fetching the result" if len(outcomes) == 1 else "fetching the results"
    first = left[0]
    count = f"{len(outcomes) - len(left)} of {len(outcomes)} jobs done; " if len(outcomes) > 1 else ""
    if first.state == "queued" and first.position is not None:
        return f"{count}queued, number {first.position + 1} in line"
    words = {"pending": "sending", "waiting": "waiting for the value of another job", "queued": "queued"}
    return count + words.get(first.state, first.state)
