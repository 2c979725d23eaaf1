"""What became of one job, as far as its owner has heard: filled in by the conversation, looked at by values."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from telepatch.lines import Place
from telepatch.shown import Hear, Shown
from telepatch_protocol import tensors
from telepatch_protocol.errors import ErrorRecord, NotFound, TelepatchError, from_record
from telepatch_protocol.jobs import ENDED, SavedMeta
from telepatch_protocol.meta import Meta

Array = np.ndarray[Any, Any]


MOST_ENTRIES = 200_000
"""How much of what a job streams is kept; the rest is let go."""

LATE_S = 10.0
"""Seconds for which something streamed is waited for once its job has completed: events come in order, but after a
break of the connection the end of a job may be known before them."""


class Waiting(Protocol):
    """Whoever waits for jobs and fetches results: the courier."""

    def start(self) -> None:
        """Begin to listen, unless it does already."""

    def wait(self, outcomes: list[Outcome]) -> None:
        """Block until all have ended and the results of those that completed are here."""

    async def wait_soon(self, outcomes: list[Outcome]) -> None:
        """As `wait`, for asynchronous programs."""

    def interrupted(self) -> None:
        """Whoever waits does not want to wait any longer."""

    def looked_at(self, outcome: Outcome) -> None:
        """The author has seen what became of it."""


class Outcome:
    """One job's state, its error or its tensors.

    Args:
        job: its id.
        waiting: who waits and fetches for it.
        place: the line where its trace was opened.
        places: lines of its nodes, to give errors the author's full path.
        hear: told what it shows.
    """

    def __init__(
        self,
        job: str,
        waiting: Waiting,
        place: Place | None = None,
        places: dict[str, Place] | None = None,
        hear: Hear | None = None,
    ) -> None:
        self.job = job
        self.place = place
        self.own = False
        self.state = "pending"
        self.position: int | None = None
        self.saves: dict[str, SavedMeta] = {}
        self.ended = threading.Event()
        self.waiting = waiting
        self._places = places or {}
        self._error: ErrorRecord | None = None
        self._raw: bytes | None = None
        self._tensors: dict[str, tensors.Tensor] | None = None
        self._arrays: dict[str, Array] = {}
        self._callbacks: list[Callable[[], object]] = []
        self._entries: list[dict[str, Any]] = []
        self._more = threading.Condition()
        self._hear = hear
        self._shown: dict[tuple[Any, ...], Shown] = {}
        self._whole = threading.Event()

    # What is heard (by the conversation)

    def move(self, state: str, position: int | None = None) -> None:
        """It is now waiting, queued or running."""
        if not self.ended.is_set():
            self.state, self.position = state, position

    def complete(self, saves: dict[str, SavedMeta], result: bytes | None) -> None:
        """It is done; `result` holds its tensors where they came along."""
        if not self.ended.is_set():
            self.saves, self._raw = saves or self.saves, result
            self._end("completed")

    def fail(self, error: ErrorRecord, state: str = "failed") -> None:
        """It ended without a result."""
        if not self.ended.is_set():
            self._error = error
            self._end(state)

    def told(self, entries: list[dict[str, Any]]) -> None:
        """It has streamed something."""
        kept = entries[: MOST_ENTRIES - len(self._entries)]
        with self._more:
            self._entries += kept
            self._more.notify_all()
        for entry in kept:
            if "log" in entry:
                self._show(entry)

    def heard_out(self) -> None:
        """It streams nothing more: its end was heard where events come in order, or it never ran."""
        self._whole.set()

    def fetched(self, result: bytes) -> None:
        """Its tensors have come."""
        self._raw = result

    def lost(self, error: ErrorRecord) -> None:
        """It completed, but its tensors cannot be had."""
        self._error = error

    # What is asked (by values)

    @property
    def has_result(self) -> bool:
        """Whether its tensors are here."""
        return self._raw is not None or self._tensors is not None

    @property
    def failed(self) -> bool:
        """Whether it ended, and not well."""
        return self.ended.is_set() and self._error is not None

    def error(self) -> TelepatchError | None:
        """Why there is no result, with the author's own file and line."""
        if self._error is None:
            return None
        error = from_record(self._error)
        place = self._places.get(error.node or "")
        if place is not None:
            error.file, error.line = place.file, place.line
        elif error.line is None and self.place is not None:
            error.file, error.line = self.place.file, self.place.line
        return error

    def meta(self, name: str) -> Meta | None:
        """Shape and dtype of a saved value, as far as the service has told; never waits."""
        found = self.saves.get(name)
        if found is None or found.shape is None or any(dim is None for dim in found.shape):
            return None
        return Meta(tuple(dim for dim in found.shape if dim is not None), found.dtype)

    def array(self, name: str) -> Array:
        """The numbers of a saved value; waits for them.

        Raises:
            TelepatchError: the job was refused, failed or cancelled, or its result is gone.
        """
        if not self.has_result:
            self.waiting.wait([self])
        return self._array(name)

    async def fetched_soon(self, name: str) -> None:
        """Have the numbers of a saved value come, in an asynchronous program."""
        if not self.has_result:
            await self.waiting.wait_soon([self])
        self._array(name)

    def entry(self, at: int) -> dict[str, Any] | None:
        """One of the things that it has streamed; waits for it. None where it ended and no more came."""
        self.waiting.start()
        try:
            with self._more:
                while len(self._entries) <= at:
                    if self.failed or (not self._more.wait(LATE_S) and self.ended.is_set()):
                        return None
                return self._entries[at]
        except KeyboardInterrupt:
            self.waiting.interrupted()
            raise

    def shown(self) -> list[Shown]:
        """What it has shown, once it has ended; waits for that."""
        self.waiting.wait([self])
        self._whole.wait(LATE_S)
        return list(self._shown.values())

    def check(self) -> None:
        """Raise if it has failed.

        Raises:
            TelepatchError: why.
        """
        error = self.error()
        if error is not None:
            self.waiting.looked_at(self)
            raise error

    def names(self) -> tuple[str, ...]:
        """Names of the saved values, once it has completed."""
        return tuple(self._decoded())

    def on_end(self, callback: Callable[[], object]) -> None:
        """Call back once it has ended, from whatever thread hears of it; at once if it has."""
        self._callbacks.append(callback)
        if self.ended.is_set():
            callback()

    async def until_ended(self) -> None:
        """Wait for its end in an asynchronous program."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        self.on_end(lambda: loop.call_soon_threadsafe(event.set))
        await event.wait()

    def _show(self, entry: dict[str, Any]) -> None:
        """Pass on what is shown; what a job tells again that had to begin again is passed over."""
        key = (entry["log"], *(entry.get("at") or ()))
        if key in self._shown:
            return
        self._shown[key] = found = Shown(entry)
        try:
            if self._hear is not None:
                self._hear(found)
        except Exception:  # the author's own, in a thread that others need
            traceback.print_exc()

    def _array(self, name: str) -> Array:
        self.waiting.looked_at(self)
        error = self.error()
        if error is not None:
            raise error
        if name not in self._arrays:
            found = self._decoded()
            if name not in found:
                raise NotFound(f"job {self.job} saved nothing as '{name}'; it saved: {', '.join(found) or 'nothing'}")
            array = found[name].array
            self._arrays[name] = array if array.flags.writeable else array.copy()
        return self._arrays[name]

    def _decoded(self) -> dict[str, tensors.Tensor]:
        if self._tensors is None:
            self._tensors = tensors.decode(self._raw or b"")
            self._raw = None
        return self._tensors

    def _end(self, state: str) -> None:
        assert state in ENDED
        self.state, self.position = state, None
        self.ended.set()
        with self._more:
            self._more.notify_all()
        for callback in self._callbacks:
            callback()
