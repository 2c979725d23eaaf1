"""Drives the conversation over HTTP from one thread of its own, for programs with and without an event loop.

One request with jobs is under way at a time; what comes in meanwhile goes into the next. One stream of events is held
open. When it breaks it is taken up where it ended, and until then the gateway is asked how things are.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from telepatch import lifetime, tracing
from telepatch.conversation import MAX_JOBS, Batch, Conversation, Parcel
from telepatch.events import Frame, frames
from telepatch.habits import Habits
from telepatch.interrupt import offer
from telepatch.outcome import Outcome
from telepatch.progress import PATIENCE_S, Progress
from telepatch.results import fetch
from telepatch.transport import RETRIED, Transport, persist
from telepatch_protocol.errors import (
    ConnectionFailed,
    PayloadTooLarge,
    StorageFull,
    TelepatchError,
    TraceError,
)
from telepatch_protocol.jobs import Event, JobStatus, SubmissionAnswer
from telepatch_protocol.understood import understood

T = TypeVar("T")

PATIENT_S = 30.0
"""Seconds for which a gateway that does not answer is tried again."""

LOST_S = 120.0
"""Seconds without any answer after which nobody waits any longer for jobs that were sent."""

CLOSING_S = 5.0
"""Seconds that the end of a program waits for what has not been sent."""

RUNNING_S = 2.0
"""Seconds that the end of a program waits for jobs that are running, so that their failure can be told."""

STARTING_S = 0.3
"""Seconds that it waits for jobs that have been taken to start running."""

LINGER_S = 0.025
"""Seconds for which a job waits for others to share its request, while earlier ones are under way and nobody looks."""

ROOM_S = 1.0
"""Seconds after which jobs are sent again for which there was no room."""

HEARTBEAT_S = 45.0
"""Seconds of silence after which the stream of events counts as broken; the gateway gives a sign every 15."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_OPENING_S = 2.0


class Courier:
    """Sends jobs, hears of them, fetches results.

    Args:
        make_transport: gives a new transport; called in each process that uses it.
        progress: whether people are shown what they wait for; None for where somebody watches.
    """

    def __init__(self, make_transport: Callable[[], Transport], *, progress: bool | None = None) -> None:
        self._make_transport = make_transport
        self._progress = progress
        self._habits = Habits()
        self.conversation = Conversation()
        self._closing = False
        self._interrupted = False
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._sending = 0
        self._called = False
        self._silent_since: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # For the author's threads

    def submit(self, parcel: Parcel) -> None:
        """Take a job; waits only while far too many wait to be sent."""
        self.start()
        with self._room:
            while self.conversation.full and not self._closing:
                self._hurry()
                self._room.wait(1.0)
            self.conversation.add(parcel)
            called, self._called = self._called, True
        if not called:
            self._call(self._wake.set)

    async def submit_soon(self, parcel: Parcel) -> None:
        """As `submit`, without holding up an event loop."""
        if self.conversation.full:
            await asyncio.to_thread(self.submit, parcel)
        else:
            self.submit(parcel)

    def run(self, work: Callable[[Transport], Coroutine[Any, Any, T]]) -> T:
        """Have one request made, and wait for its answer."""
        return self._later(work).result()

    async def run_soon(self, work: Callable[[Transport], Coroutine[Any, Any, T]]) -> T:
        """As `run`, in an asynchronous program."""
        return await asyncio.wrap_future(self._later(work))

    def wait(self, outcomes: list[Outcome]) -> None:
        """Block until all have ended and the results of those that completed are here."""
        self.start()
        if not all(outcome.ended.is_set() for outcome in outcomes):
            self._habits.waits(outcomes, len(self.conversation.open))
            self.wait_for_end(outcomes)
        missing = _without_result(outcomes)
        if missing:
            self.run(lambda transport: fetch(transport, missing, self._patience))

    def wait_for_end(self, outcomes: list[Outcome]) -> None:
        """Block until all have ended, well or not."""
        self._hurry()
        try:
            with Progress(
                outcomes,
                counted=self.conversation.counted,
                shown=self._progress,
                silent=lambda: self._silent_since is not None,
            ) as progress:
                for outcome in outcomes:
                    progress.tick()
                    while not outcome.ended.wait(PATIENCE_S / 2):
                        progress.tick()
        except KeyboardInterrupt:
            self.interrupted()
            raise

    def interrupted(self) -> None:
        """Ctrl-C while somebody waits: offer to cancel what is open, and do not make them wait at the end either."""
        self._interrupted = True
        with self._lock:
            left = len(self.conversation.own())
        offer(left, self.cancel)

    def cancel(self) -> int:
        """Cancel what was submitted from here and has not ended; returns how many jobs these were."""
        with self._room:
            gone = self.conversation.take_back()
            self._room.notify_all()
        self.flush(CLOSING_S)
        with self._lock:
            left = self.conversation.own()
        for start in range(0, len(left), MAX_JOBS):
            gone += self._cancelled(left[start : start + MAX_JOBS])
        return gone

    def _cancelled(self, jobs: list[str]) -> int:
        answer = self.run(lambda transport: transport.ask("POST", "/v1/jobs/cancel", {"jobs": jobs}))
        ended = [one["id"] for one in answer["jobs"] if one.get("state") == "cancelled"]
        with self._lock:
            for job in ended:
                self.conversation.cancelled(job)
        return len(ended)

    async def wait_soon(self, outcomes: list[Outcome]) -> None:
        """As `wait`, for asynchronous programs."""
        self.start()
        self._hurry()
        for outcome in outcomes:
            await outcome.until_ended()
        missing = _without_result(outcomes)
        if missing:
            await self.run_soon(lambda transport: fetch(transport, missing, self._patience))

    def follow(self, outcome: Outcome) -> None:
        """Listen for the end of a job that was not sent from here."""
        self.start()
        with self._lock:
            self.conversation.follow(outcome)
        self.run(self._ask_states)

    def looked_at(self, outcome: Outcome) -> None:
        """The author has seen what became of it."""
        if self.conversation.failed:
            self.conversation.failed.pop(outcome.job, None)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was submitted has been taken by the gateway; whether that came to pass in time."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._hurry()
        with self._room:
            while self.conversation.pending or self._sending:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._room.wait(left)
        return True

    def close(self) -> list[Outcome]:
        """Send what is left, stop, and give the failures that nobody has looked at."""
        self._closing = True
        if self._loop is not None:
            if self.flush(CLOSING_S) and not self._interrupted:
                self._see_off()
            self._call(self._stop.set)
            self._thread.join(CLOSING_S)
            self._loop = None
        with self._lock:
            unseen = list(self.conversation.unseen_failures())
            self.conversation.give_up(
                TraceError("the lab was closed before this job ended; use lab.result of a new one")
            )
            self.conversation.pending.clear()
        lifetime.remove(self)
        return unseen

    def _see_off(self) -> None:
        """Wait briefly for what is about to end anyway: who closes without a look should hear of a failure."""
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < RUNNING_S:
            hoped = ("queued", "running") if passed < STARTING_S else ("running",)
            with self._lock:
                left = [outcome for outcome in self.conversation.open.values() if outcome.state in hoped]
            if not left:
                return
            left[0].ended.wait(0.05)

    def start(self) -> None:
        """Start the thread, unless it runs already."""
        if self._closing:
            raise TraceError("this lab is closed; connect again")
        with self._lock:
            if self._loop is not None:
                return
            started = threading.Event()
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._thread_main, args=(started,), name="telepatch", daemon=True)
            self._thread.start()
        started.wait()
        lifetime.add(self)

    def after_fork(self) -> None:
        """In a forked child: the thread and the connections are the parent's, and so is what waits to be sent."""
        self.conversation.orphaned()
        self._reset()

    # In the courier's own thread

    def _thread_main(self, started: threading.Event) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main(started))
        finally:
            self._loop.close()

    async def _main(self, started: threading.Event) -> None:
        self._wake, self._stop, self._listening = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._hurried = asyncio.Event()
        self._transport = self._make_transport()
        started.set()
        tasks = [asyncio.create_task(self._send_all()), asyncio.create_task(self._listen())]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._transport.close()

    async def _send_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._linger()
            while (batch := self._next_batch()) is not None:
                try:
                    await self._opening()
                    await self._send(batch)
                finally:
                    with self._room:
                        self._sending = 0
                        self._room.notify_all()
                await self._linger()
            self._hurried.clear()

    async def _linger(self) -> None:
        """Let more jobs come where none is missed yet: a loop of traces is sent in few requests."""
        if len(self.conversation.open) > len(self.conversation.pending):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurried.wait(), LINGER_S)

    def _hurry(self) -> None:
        """Somebody waits: what is there is sent now."""
        if self.conversation.pending:
            self._call(self._hurried.set)

    def _next_batch(self) -> Batch | None:
        with self._room:
            batch = self.conversation.next_batch()
            self._called = batch is not None
            self._sending = len(batch.parcels) if batch is not None else 0
            self._room.notify_all()
            return batch

    async def _opening(self) -> None:
        """Give the stream of events a moment to open, so that no event is missed."""
        if not self._listening.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._listening.wait(), _OPENING_S)

    async def _send(self, batch: Batch) -> None:
        """Send a batch until it is taken or refused; what there is no room for is sent again when some has ended."""
        left: Batch | None = batch
        while left is not None:
            left = await self._send_once(left)

    async def _send_once(self, batch: Batch) -> Batch | None:
        """Send a batch, and give back what of it is to be sent again; the same ids sent twice are the same jobs."""
        try:
            answer = await persist(lambda: self._post(batch), self._patience)
        except PayloadTooLarge as error:
            halves = None if isinstance(error, StorageFull) else self.conversation.split(batch)
            if halves is None:
                self._refused(batch, error)
                return None
            for half in halves:
                await self._send(half)
        except TelepatchError as error:
            self._refused(batch, error)
        except Exception as error:
            self._refused(batch, ConnectionFailed(f"submitting failed: {type(error).__name__}: {error}"))
            raise
        else:
            self._silent_since = None
            with self._lock:
                waiting = self.conversation.answered(batch, answer)
            if waiting is not None:
                await self._transport.slow_down(waiting[1], ROOM_S)
                return waiting[0]
        return None

    def _refused(self, batch: Batch, error: TelepatchError) -> None:
        with self._lock:
            self.conversation.refused(batch, error)

    async def _post(self, batch: Batch) -> SubmissionAnswer:
        attachment = batch.attachment
        if attachment is None:
            how: dict[str, Any] = {"content": batch.submission}
        else:
            how = {
                "files": {
                    "submission": ("submission.json", batch.submission, "application/json"),
                    "attachment": ("attachment.safetensors", attachment, "application/octet-stream"),
                }
            }
        with tracing.submitting([parcel.context for parcel in batch.parcels]) as headers:
            async with self._transport.exchange("POST", "/v1/jobs", timeout=60.0, headers=headers, **how) as response:
                return understood(SubmissionAnswer, await response.aread())

    async def _listen(self) -> None:
        """Hold the stream of events open; where it cannot be, ask."""
        pause = _FIRST_PAUSE_S
        while True:
            begun = time.monotonic()
            try:
                await self._stream()
            except ConnectionFailed as error:
                self._unanswered(error)
            except TelepatchError:
                pass  # it answers, but has no events
            self._listening.set()
            pause = _FIRST_PAUSE_S if time.monotonic() - begun > _LONGEST_PAUSE_S else min(pause * 2, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause)
            await self._ask_states(self._transport)

    def _unanswered(self, error: TelepatchError) -> None:
        """Nobody answers: those who wait are told, and in the end let go."""
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if now - self._silent_since > LOST_S:
            with self._lock:
                self.conversation.give_up(ConnectionFailed(f"{error.detail}; given up after {LOST_S:.0f} s"))

    async def _stream(self) -> None:
        place = self.conversation.place
        headers = {"accept": "text/event-stream", **({"last-event-id": place} if place is not None else {})}
        async with self._transport.exchange("GET", "/v1/events", headers=headers, timeout=HEARTBEAT_S) as response:
            self._silent_since = None
            self._listening.set()
            async for frame in frames(response.aiter_bytes()):
                if frame.event == "missed":
                    await self._ask_states(self._transport)
                else:
                    self._heard(frame)

    def _heard(self, frame: Frame) -> None:
        if frame.data is None:
            if frame.id is not None:
                self.conversation.place = frame.id
            return
        try:
            event = understood(Event, frame.data)
        except ValueError:
            return  # of a kind that this client does not know
        with self._lock:
            self.conversation.heard(event)

    async def _ask_states(self, transport: Transport) -> None:
        """Ask how each open job is."""
        with self._lock:
            asked = [job for job in self.conversation.open if job not in self.conversation.unsent()]
        for job in asked:
            try:
                status = understood(JobStatus, await transport.ask("GET", f"/v1/jobs/{job}"))
            except RETRIED:
                return
            except TelepatchError as error:
                self._unknown(job, error)
            else:
                self._silent_since = None
                with self._lock:
                    self.conversation.learned(status)

    def _unknown(self, job: str, error: TelepatchError) -> None:
        """A job that the gateway does not tell of: on its way from here, or none at all."""
        outcome = self.conversation.open.get(job)
        if outcome is not None and outcome.state == "asked":
            with self._lock:
                self.conversation.open.pop(job, None)
            outcome.fail(error.record())

    def _patience(self) -> float:
        return CLOSING_S / 2 if self._closing else PATIENT_S

    def _later(self, work: Callable[[Transport], Coroutine[Any, Any, T]]) -> Future[T]:
        self.start()
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self._with_transport(work), self._loop)

    async def _with_transport(self, work: Callable[[Transport], Coroutine[Any, Any, T]]) -> T:
        return await work(self._transport)

    def _call(self, function: Callable[[], None]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(function)


def _without_result(outcomes: list[Outcome]) -> list[Outcome]:
    """Those that completed and whose tensors are elsewhere."""
    missing = (one for one in outcomes if one.state == "completed" and not one.has_result and not one.failed)
    return list({one.job: one for one in missing}.values())
