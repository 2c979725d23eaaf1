"""The loop of a worker: take jobs onto the floor, give everybody there a turn, hand in results while the next one runs.

Jobs that train are taken in hand beside, and have turns between those of the floor, until their slice of time is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import structlog

from telepatch_broker.connection import LOST
from telepatch_broker.jobs import TakenJob
from telepatch_broker.lane import Lane
from telepatch_protocol.errors import TelepatchError
from telepatch_protocol.reading import Reader
from telepatch_protocol.subgraphs import trains
from telepatch_worker.copies import Copies
from telepatch_worker.desk import quiet, unkept, unseen
from telepatch_worker.engine import Desk, Engine, Outcome, Settled, Task
from telepatch_worker.floor import Floor
from telepatch_worker.handing_in import HandingIn
from telepatch_worker.intake import task_of
from telepatch_worker.keeping import Keeper
from telepatch_worker.lead import Lead
from telepatch_worker.long import LongJob, Turns
from telepatch_worker.pace import Pace
from telepatch_worker.recent import Recent
from telepatch_worker.settings import Settings
from telepatch_worker.streams import Streams
from telepatch_worker.suspects import Suspects, sort_out
from telepatch_worker.trouble import as_job_error
from telepatch_worker.visitors import Visitors
from telepatch_worker.watching import Watching

T = TypeVar("T")

_log = structlog.get_logger(__name__)
_WAIT_SECONDS = 0.5
_PAUSE_SECONDS = 1.0
_TURN_SECONDS = 0.05
_LONGEST_TURN_SECONDS = 1.0
_PUT_DOWN_SECONDS = 5.0
_AHEAD = 0.6
"""The part of a turn, by the length of the last one, after which jobs for the next one are taken."""
_VISIT_SECONDS = 0.03
"""How often it is looked for new jobs while a job trains."""
_SHORT_SECONDS = 0.05
_BACK_SECONDS = 0.05
_NEWCOMERS = 16
"""Jobs that are taken, where others have filled a worker, of people who have nothing there."""
_LOOK_SECONDS = 0.005
"""Turns of the floor follow one another for so long before it is looked whether there are new jobs."""


class Serving:
    """Jobs of one model, from the lane through the engine and back.

    Args:
        engine: that runs them.
        lane: where they come from, and where their results go.
        worker: id of this worker.
        settings: how many at once, and for how long.
        lead: how it runs them, where other ranks run them, too.
        watching: hears what happens.
    """

    def __init__(
        self,
        engine: Engine,
        lane: Lane,
        worker: str,
        settings: Settings,
        lead: Lead | None = None,
        watching: Watching | None = None,
    ) -> None:
        self._lead = lead or Lead()
        engine.meter = self.watching = watching or Watching()
        self.engine = engine
        self.lane = lane
        self.worker = worker
        self.settings = settings
        self.model = engine.card.id
        self.recent = Recent(settings.worker_recent_bytes)
        self._reader = Reader()
        self._mine: dict[str, TakenJob] = {}
        self._lost: set[str] = set()
        self._storing: set[str] = set()
        self._copies = Copies(engine.loaded.device)
        self._handing_in = HandingIn(lane, worker, self, self._spawn)
        self._streams = Streams(self._tell_values, self._spawn)
        self._stop = asyncio.Event()
        self._abandoned = False
        self._writing: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._keeper = Keeper(lane, worker, self._spawn)
        self._floor: Floor | None = None
        self._visitors = Visitors(lambda: self._floor, engine.model.aside)
        self._long: Turns | None = None
        self._pace = Pace(settings.worker_batch_tokens, settings.worker_turn_seconds)
        self._took = 0.0
        self._last = 0.0
        self._next: dict[str, Task] = {}
        self._suspects = Suspects()

    @property
    def running(self) -> int:
        """How many jobs this worker has in hand."""
        return len(self._mine)

    @property
    def cache_bytes(self) -> int:
        """That the caches of generations take."""
        return 0 if self._floor is None else self._floor.cache_bytes

    @property
    def _on_the_floor(self) -> bool:
        """Whether anybody is there."""
        return self._floor is not None and self._floor.busy

    def stop(self) -> None:
        """Take no more jobs, finish those that have begun, and end."""
        self._stop.set()

    async def run(self) -> None:
        """Serve until `stop`; jobs that were taken and not begun by then go back to the queue."""
        beside = [asyncio.create_task(one) for one in (self._renew(), self._hear_cancels(), self._reclaim())]
        beside.append(asyncio.create_task(self._give_up()))
        try:
            while not self._stop.is_set():
                await self._safely(self._turn())
            await self._safely(self._part_with_the_rest())
            while self._on_the_floor:
                await self._safely(self._compute())
            while self._writing:
                await asyncio.gather(*self._writing)
            await self._safely(self.lane.give_back(self.worker, list(self._mine)))
        finally:
            for one in beside:
                one.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            self._thread.shutdown()

    async def _part_with_the_rest(self) -> None:
        """Once asked to end: what has not begun, and what others can go on with, is theirs now."""
        await self._put_down()
        if self._on_the_floor:
            await self._compute()  # those that have not begun are let go
        busy = self._storing.union(() if self._floor is None else self._floor.jobs)
        rest = [job for job in self._mine if job not in busy]
        for job in rest:
            await self._keeper.written(job)
            await self._streams.flush(job)
        await self.lane.give_back(self.worker, rest)
        for job in rest:
            self._streams.forget(job)
        self._let_go(rest)
        _log.info("jobs_given_back", jobs=rest, finishing=len(self._mine))

    async def tried(self, task: Task) -> TelepatchError | None:
        """Run a job of the worker's own, before any other; what it failed with, if it did."""
        ended: list[Outcome] = []
        desk = Desk(set, quiet, unseen, unkept, Settled(ended.append))
        floor = self._lead.floor(self.engine, desk)
        await self._in_thread(floor.add, [task])
        while floor.busy:
            await self._in_thread(_turns, floor)
        return ended[0].error

    async def hand_back(self) -> None:
        """Return all jobs in hand, whatever has become of them so far: the process ends now."""
        await self.lane.give_back(self.worker, list(self._mine))

    async def _turn(self) -> None:
        """New jobs, if there is room for some, and a turn for everybody in hand."""
        await self._receive(await self._take())
        if self._on_the_floor:
            computing = asyncio.create_task(self._compute())
            await self._ahead(computing)
            await computing
        if self._long and not (self._on_the_floor and self._took < _TURN_SECONDS):
            await self._long_turn(self._long)

    async def _take(self) -> Sequence[TakenJob]:
        """Jobs for which there is room beside those in hand; where there is none, of people who have nothing there."""
        if self._suspects.closed:
            await asyncio.sleep(0 if self._on_the_floor else _LOOK_SECONDS)
            return ()
        settings, room = self.settings, self._pace.room
        waiting, tokens = (0, 0) if self._floor is None else self._floor.load()
        waiting += len(self._next)
        tokens += self._ahead_tokens()
        idle = not self._long and not self._on_the_floor and not self._next
        # results of jobs that have ended wait in memory: they count, so that there are never many
        most = 2 * settings.worker_batch_jobs - len(self._storing)
        if most < 1:
            if idle:
                await asyncio.wait(self._writing, return_when=asyncio.FIRST_COMPLETED)
            return ()
        full = waiting >= settings.worker_batch_jobs or tokens >= room
        return await self.lane.take(
            self.model,
            self.worker,
            max_jobs=min(most, _NEWCOMERS if full else settings.worker_batch_jobs - waiting),
            max_tokens=room // 4 if full else room - tokens,
            max_long=0 if self._long else 1,
            others_than=self._people() if full else (),
            slice_seconds=settings.worker_slice_seconds,
            lease_seconds=settings.worker_lease_seconds,
            wait_seconds=_WAIT_SECONDS if idle else 0.0,
        )

    def _people(self) -> set[str]:
        """Whose jobs are in hand, those that train apart."""
        return {job.person for job in self._mine.values() if job.lane == "interactive"}

    async def _ahead(self, computing: asyncio.Task[None]) -> None:
        """While a forward runs that takes a while, take and read jobs for the next one."""
        if self._last < _SHORT_SECONDS or self._next or self._suspects.closed:
            return
        await asyncio.wait({computing}, timeout=_AHEAD * self._last)
        if not computing.done() and not self._stop.is_set():
            await self._safely(self._take_ahead())

    def _ahead_tokens(self) -> int:
        return sum(job.cost for id, job in self._mine.items() if id in self._next)

    async def _take_ahead(self) -> None:
        """Most of what the next turn may hold beside those who stay; the rest is for those who come meanwhile."""
        settings = self.settings
        staying, tokens = (0, 0) if self._floor is None else self._floor.load(staying=True)
        jobs, left = settings.worker_batch_jobs - staying, self._pace.room * 3 // 4 - tokens
        if jobs < 1 or left < 1:
            return
        taken = await self.lane.take(
            self.model,
            self.worker,
            max_jobs=max(1, jobs - len(self._storing)),
            max_tokens=left,
            max_long=0,
            lease_seconds=settings.worker_lease_seconds,
        )
        self._next |= {task.id: task for task in await self._read(taken)}

    async def _receive(self, taken: Sequence[TakenJob]) -> None:
        """Take in hand what was taken at once, and what was taken ahead and not cancelled since."""
        tasks = [*self._next.values(), *await self._read(taken)]
        self._next = {}
        self._let_go(task.id for task in tasks if task.id in self._lost)
        tasks = [task for task in tasks if task.id in self._mine]
        tasks = self._suspects.part(tasks, self._mine, empty=not self._on_the_floor)
        if not tasks:
            return
        try:
            await self._admit([task for task in tasks if not trains(task.graph)])
            await self._begin([task for task in tasks if trains(task.graph)])
        except BaseException:
            self._let_go(task.id for task in tasks)
            raise

    async def _read(self, taken: Sequence[TakenJob]) -> list[Task]:
        """Jobs that were taken, with all that they need."""
        taken, back = sort_out(taken, self._mine, self._lost)
        if back:
            await self.lane.give_back(self.worker, back)
            await asyncio.sleep(_BACK_SECONDS)
        if not taken:
            return []
        self.watching.taken(taken)
        self._mine |= {job.id: job for job in taken}
        try:
            return [task for task in await asyncio.gather(*map(self._task, taken)) if task is not None]
        except BaseException:
            self._let_go(job.id for job in taken)
            raise

    async def _task(self, job: TakenJob) -> Task | None:
        """A job with all that it needs; one that cannot be had fails alone."""
        began = time.perf_counter()
        try:
            task = await task_of(job, self.lane, self.recent, self._reader)
        except LOST:
            raise
        except Exception as error:
            self._ended(Outcome(job.id, None, as_job_error(error, "reading the job")))
            return None
        self.watching.read(job.id, time.perf_counter() - began)
        return task

    async def _admit(self, tasks: Sequence[Task]) -> None:
        """Jobs that run together, onto the floor."""
        if tasks:
            self._visitors.seen()
            await self._in_thread(self._opened().add, tasks)

    def _opened(self) -> Floor:
        """The floor."""
        if self._floor is None:
            self._floor = self._lead.floor(self.engine, self._desk(), proceed=lambda: not self._stop.is_set())
        return self._floor

    async def _compute(self) -> None:
        """Let the floor go on, in the engine's thread; what ends there is handed in from here."""
        _, tokens = self._opened().load()
        began = time.perf_counter()
        try:
            await self._in_thread(_turns, self._opened())
        except BaseException:
            self._close()
            raise
        self._last = time.perf_counter() - began
        self._pace.took(tokens, self._last)
        self._took += self._last

    def _close(self) -> None:
        """Something of ours has gone wrong with the floor: nobody there goes on."""
        if self._floor is not None:
            self._let_go(self._floor.jobs)
        self._floor = None

    def _let_go(self, jobs: Iterable[str]) -> None:
        """Forget jobs that something of ours has gone wrong with: their leases run out, and they are tried again."""
        for job in list(jobs):
            self._mine.pop(job, None)
            self._lost.discard(job)
            self._suspects.ended(job)
            self.watching.forget(job)

    async def _in_thread(self, work: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)

    # Jobs that train

    async def _begin(self, tasks: Sequence[Task]) -> None:
        """Take jobs in hand that run in turns."""
        if tasks and self._long is None:
            self._long = self._lead.turns(self.engine, self._desk(), self._visitors)
        for task in tasks:
            assert self._long is not None
            await self._in_thread(self._long.add, task)

    async def _long_turn(self, long: Turns) -> None:
        """Let one of them go on for about as long as the others' last turns took."""
        seconds = min(max(self._took, _TURN_SECONDS), _LONGEST_TURN_SECONDS)
        self._took = 0.0
        self._opened()
        going = asyncio.create_task(self._in_thread(long.turn, seconds))
        await self._let_in(going)
        job = await going
        if job is None:
            return
        if job.ready:
            await self._make_room(long, job)
        elif job.slice_over(length := self.settings.worker_slice_seconds):
            if await self.lane.slice_over(job.id, self.worker, slice_seconds=length):
                long.ask(job)
            else:
                long.another_slice(job)

    async def _let_in(self, going: asyncio.Task[Any]) -> None:
        """While a job trains, take others' jobs for the pauses that it makes."""
        visitors = self._visitors
        before = visitors.took
        try:
            while not (await asyncio.wait({going}, timeout=_VISIT_SECONDS))[0]:
                if not self._stop.is_set() and not self._next and not len(visitors) and not self._suspects.closed:
                    await self._safely(self._take_ahead())
                    visitors.come(self._suspects.part(list(self._next.values()), self._mine, empty=False))
                    self._next = {}
        finally:
            await asyncio.wait({going})
            self._next |= {task.id: task for task in visitors.left()}
            self._took += visitors.took - before
            if visitors.fault is not None:
                self._close()
                fault, visitors.fault = visitors.fault, None
                raise fault

    async def _make_room(self, long: Turns, job: LongJob) -> None:
        """Write down how far a job has come, and give it back: it goes on once its owner's turn has come again."""
        await self._in_thread(job.write)
        if not await self._keeper.written(job.id):
            long.another_slice(job)
            return
        long.remove(job)
        await self._streams.flush(job.id)
        await self.lane.give_back(self.worker, [job.id])
        self._streams.forget(job.id)
        self._mine.pop(job.id, None)
        self.watching.forget(job.id)
        _log.info("slice_ended", job=job.id)

    async def _put_down(self) -> None:
        """Others go on with the jobs that run in turns, from where they are."""
        if self._long:
            seconds = min(_PUT_DOWN_SECONDS, self.settings.worker_stop_seconds)
            await self._in_thread(self._long.put_down, seconds)

    def _desk(self) -> Desk:
        """Where jobs are heard that run in the engine's thread."""
        ended = self._from_thread(self._ended)
        return Desk(
            cancelled=self._leaving,
            progress=self._from_thread(self._tell),
            values=self._from_thread(self._streams.add),
            keep=self._from_thread(self._keeper.keep),
            settled=Settled(lambda outcome: ended(self._copies.begin(outcome))),
            room=lambda: self._pace.room,
        )

    def _from_thread(self, heard: Callable[..., None]) -> Callable[..., None]:
        """What the engine's thread tells is heard here."""
        loop = asyncio.get_running_loop()

        def tell(*told: Any) -> None:
            loop.call_soon_threadsafe(partial(heard, *told))

        return tell

    def _leaving(self) -> set[str]:
        """Jobs that are to stop."""
        return set(self._mine) if self._abandoned else self._lost

    def _ended(self, outcome: Outcome) -> None:
        if self._abandoned and outcome.saved is None:
            return  # not its own fault: it goes back to the queue
        if outcome.saved is not None:
            self.recent.put(outcome.id, outcome.saved)
        self.watching.ended(outcome)
        self._storing.add(outcome.id)
        self._handing_in.add(outcome)

    def gone(self, job: str) -> bool:
        """Whether a job is not this worker's any more."""
        return job in self._lost

    async def before_end(self, job: str) -> None:
        """Send what a job streams, before it ends."""
        await self._safely(self._streams.flush(job))

    def handed_in(self, outcome: Outcome) -> None:
        """Let a job go."""
        self._mine.pop(outcome.id, None)
        self._streams.forget(outcome.id)
        self.watching.handed_in(outcome, lost=outcome.id in self._lost)
        self._lost.discard(outcome.id)
        self._storing.discard(outcome.id)
        self._suspects.ended(outcome.id)

    def _tell(self, job: str, done: int, total: int) -> None:
        self._spawn(self._note(job, done, total))

    async def _note(self, job: str, done: int, total: int) -> None:
        await self.lane.note(job, self.worker, "progress", {"done": done, "total": total})

    async def _tell_values(self, job: str, data: dict[str, Any]) -> None:
        await self.lane.note(job, self.worker, "values", data)

    # Beside the batches

    async def _renew(self) -> None:
        """Keep the leases of what is in hand, and learn what is not this worker's any more."""
        seconds = self.settings.worker_lease_seconds
        while True:
            await asyncio.sleep(seconds / 4)
            await self._safely(self._renew_once(seconds))

    async def _renew_once(self, seconds: float) -> None:
        gone = await self.lane.renew(self.worker, list(self._mine), lease_seconds=seconds)
        self._lost |= gone & self._mine.keys()

    async def _hear_cancels(self) -> None:
        while True:
            await self._safely(self._hear())
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _hear(self) -> None:
        async for job in self.lane.cancellations(self.model):
            if job in self._mine:
                self._lost.add(job)

    async def _reclaim(self) -> None:
        while True:
            await self._safely(self._reclaim_once())
            await asyncio.sleep(min(2.0, self.settings.worker_lease_seconds))

    async def _reclaim_once(self) -> None:
        # First what this worker itself has in hand: it may have been held up, and the others are not gone.
        await self._renew_once(self.settings.worker_lease_seconds)
        await self.lane.reclaim(self.model)

    async def _give_up(self) -> None:
        """After `stop`, let the batch in hand go on only for so long."""
        await self._stop.wait()
        await asyncio.sleep(self.settings.worker_stop_seconds)
        self._abandoned = True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        one = asyncio.create_task(self._safely(work))
        self._writing.add(one)
        one.add_done_callback(self._writing.discard)

    async def _safely(self, work: Coroutine[Any, Any, Any]) -> None:
        """A broken connection, or a mistake of ours, does not end the worker; what was lost with it is retried."""
        began = time.monotonic()
        try:
            await work
        except Exception as error:
            self.watching.failed(error, expected=isinstance(error, LOST))
            if time.monotonic() - began < _PAUSE_SECONDS:
                await asyncio.sleep(_PAUSE_SECONDS)


def _turns(floor: Floor) -> None:
    """Turns of the floor, as many as take no time worth speaking of."""
    until = time.perf_counter() + _LOOK_SECONDS
    while floor.busy:
        floor.turn()
        if time.perf_counter() > until:
            break
