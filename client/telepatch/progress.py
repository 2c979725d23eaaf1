"""What a person sees while they wait: how far all that is under way has come, on one line of standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Self

from telepatch.outcome import Outcome

PATIENCE_S = 0.5
"""Seconds before anything is shown."""

_REDRAWN_S = 0.1
_EVERY_S = 1.0
_WIDTH = 20


class Progress:
    """A line that follows jobs; in a terminal and in a notebook it is drawn over and over, in a log it comes anew.

    Use it as a context manager: the line goes away at the end.

    Args:
        outcomes: the jobs that are waited for.
        counted: gives how many jobs have ended and how many there are, of all that are under way together.
        shown: whether anything is written; None for where somebody watches.
        silent: whether the gateway does not answer at the moment.
    """

    def __init__(
        self,
        outcomes: Sequence[Outcome],
        *,
        counted: Callable[[], tuple[int, int]] = lambda: (0, 0),
        shown: bool | None = None,
        silent: Callable[[], bool] = lambda: False,
    ) -> None:
        self._silent = silent
        self._outcomes = outcomes
        self._counted = counted
        self._redraws = watched()
        self._shown = self._redraws if shown is None else shown
        self._begun = time.monotonic()
        self._drawn = 0.0
        self._said = ""
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()

    def tick(self) -> None:
        """Show how things are, if enough time has passed and, in a log, if that is news."""
        now = time.monotonic()
        if not self._shown or now - self._begun < PATIENCE_S or now - self._drawn < self._pause():
            return
        state = "the gateway does not answer; trying again" if self._silent() else self._state()
        if not state or (not self._redraws and state == self._said):
            return
        self._drawn, self._said = now, state
        self._write(f"telepatch: {state} ({now - self._begun:.1f} s)")

    def _pause(self) -> float:
        return _REDRAWN_S if self._redraws else _EVERY_S

    def _write(self, text: str) -> None:
        if self._redraws:
            sys.stderr.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def _state(self) -> str:
        done, total = self._counted()
        if total < 2:
            return describe(self._outcomes)
        if not self._redraws:  # a log gets a line for each tenth
            done = done * 10 // total * total // 10
        return f"{bar(done, total)}{done} of {total} done; {describe(self._outcomes)}"


def watched() -> bool:
    """Whether somebody sees standard error as it is written: in a terminal or a notebook."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel.")


def bar(done: int, total: int) -> str:
    """How much is done, as a picture."""
    filled = _WIDTH * done // total
    return f"[{'#' * filled}{'.' * (_WIDTH - filled)}] "


def describe(outcomes: Sequence[Outcome]) -> str:
    """Where the first job is that has not ended."""
    first = next((outcome for outcome in outcomes if not outcome.ended.is_set()), None)
    if first is None:
        return "fetching the result" if len(outcomes) == 1 else "fetching the results"
    if first.state == "queued" and first.position is not None:
        return f"queued, number {first.position + 1} in line"
    words = {"pending": "sending", "waiting": "waiting for the value of another job", "queued": "queued"}
    return words.get(first.state, first.state)
