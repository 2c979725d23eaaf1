"""Work besides the jobs of people, through RQ: what takes long, and what comes again and again."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty

from telepatch_broker.blobs import Blobs, DirectoryBlobs
from telepatch_broker.connection import connect, connect_sync, is_full
from telepatch_broker.data import Uploads
from telepatch_broker.lane import Lane
from telepatch_broker.tasks import Task, Tasks
from telepatch_protocol.printable import printable

_KEPT_SECONDS = 3600
_STOP_SECONDS = 15.0
_RESTART_SECONDS = 1.0
_WAKE_SECONDS = 0.05

log = logging.getLogger(__name__)


class Housekeeping:
    """A queue of tasks, and a thread of this process that runs them.

    Args:
        url: of Redis.
        tasks: what may be run.
        queue: its name; processes with other tasks use another one.

    Example:
        >>> house = Housekeeping(url, Tasks(broker_tasks(url, blobs)))
        >>> house.every(60, "expire_results")
        >>> with house.run():
        ...     house.enqueue("expire_results")
    """

    def __init__(self, url: str, tasks: Tasks, *, queue: str = "housekeeping") -> None:
        self._url = url
        self._tasks = tasks
        self._name = queue
        self._periodic: list[tuple[float, str, tuple[Any, ...]]] = []

    def enqueue(self, name: str, *arguments: Any, timeout_seconds: int = 600) -> str:
        """Have a task run by some process that serves this queue; returns its id.

        Raises:
            NotFound: the name is not in the table.
        """
        with connect_sync(self._url) as client:
            return self._enqueue(client, name, arguments, timeout_seconds)

    def state(self, id: str) -> str | None:
        """What RQ says of a task: queued, started, finished or failed; None when it is forgotten."""
        with connect_sync(self._url) as client:
            job = self._queue(client).fetch_job(id)
            return None if job is None else str(job.get_status().value)

    def every(self, seconds: float, name: str, *arguments: Any) -> None:
        """Have a task run periodically: once per period, however many processes ask for it."""
        _ = self._tasks[name]
        self._periodic.append((seconds, name, arguments))

    @contextmanager
    def run(self) -> Iterator[None]:
        """Run tasks in a thread while the block lasts; its end waits, for a while, for the one that is running."""
        stopping = threading.Event()
        names: list[str] = []
        work = threading.Thread(target=self._work, args=(stopping, names), name=f"{self._name}-work", daemon=True)
        clock = threading.Thread(target=self._tick, args=(stopping,), name=f"{self._name}-clock", daemon=True)
        for thread in (work, clock):
            thread.start()
        try:
            yield
        finally:
            stopping.set()
            self._wake(work, names)
            for thread in (work, clock):
                thread.join(_STOP_SECONDS)

    def _queue(self, client: redis.Redis) -> Queue:
        return Queue(self._name, connection=client, job_class=self._tasks.job_class(), serializer=JSONSerializer)

    def _enqueue(self, client: redis.Redis, name: str, arguments: tuple[Any, ...], timeout_seconds: int) -> str:
        _ = self._tasks[name]
        job = self._queue(client).enqueue_call(
            name,
            args=arguments,
            timeout=timeout_seconds,
            result_ttl=_KEPT_SECONDS,
            failure_ttl=_KEPT_SECONDS * 24,
            description=name,
        )
        return str(job.id)

    def _wake(self, work: threading.Thread, names: list[str]) -> None:
        """End the wait for tasks in which a worker stands, so that nobody waits for its end; a task is not touched."""
        try:
            with connect_sync(self._url) as client:
                for _ in range(round(1 / _WAKE_SECONDS)):
                    for one in client.client_list():
                        if one.get("name") in names:
                            client.client_unblock(int(one["id"]))
                    work.join(_WAKE_SECONDS)
                    if not work.is_alive():
                        return
        except RedisError as error:
            log.debug("housekeeping ends when its wait does: %r", error)

    def _work(self, stopping: threading.Event, names: list[str]) -> None:
        with connect_sync(self._url) as client:
            # A worker ends when something is wrong, with Redis or with what it found there; the next one takes over.
            while not stopping.is_set():
                try:
                    queue = self._queue(client)
                    worker = TaskWorker(
                        [queue], connection=client, job_class=queue.job_class, serializer=JSONSerializer, worker_ttl=60
                    )
                    worker.stopping = stopping
                    worker.log.addFilter(_PLAIN)
                    names[:] = [worker.name]
                    worker.work(logging_level=None)
                except (RedisError, OSError, ValueError) as error:
                    log.warning("housekeeping starts again: %r", error)
                stopping.wait(_RESTART_SECONDS)

    def _tick(self, stopping: threading.Event) -> None:
        if not self._periodic:
            return
        step = min(1.0, *(seconds / 4 for seconds, _, _ in self._periodic))
        here: dict[str, float] = {}
        with connect_sync(self._url) as client:
            while not stopping.wait(step):
                try:
                    self._enqueue_due(client)
                except (RedisError, OSError) as error:
                    log.warning("housekeeping could not enqueue: %r", error)
                    if is_full(error):
                        self._run_due(here)

    def _run_due(self, last: dict[str, float]) -> None:
        """Run what is due here and now: what makes room must not wait for RQ, which needs room to write."""
        for seconds, name, arguments in self._periodic:
            if time.monotonic() - last.get(name, -seconds) < seconds:
                continue
            last[name] = time.monotonic()
            try:
                found = self._tasks[name](*arguments)
                if inspect.iscoroutine(found):
                    asyncio.run(found)
            except Exception as error:
                log.warning("housekeeping: %s failed: %r", name, error)

    def _enqueue_due(self, client: redis.Redis) -> None:
        for seconds, name, arguments in self._periodic:
            period = f"telepatch:every:{self._name}:{name}"
            if client.set(period, "1", nx=True, px=max(1, round(seconds * 1000))):
                self._enqueue(client, name, arguments, timeout_seconds=600)


class _Plain(logging.Filter):
    """Names of jobs and tasks come from Redis: in a log they stay on their line, and move no cursor."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Spell out what cannot be seen; the last argument is a stack, or whatever else has lines."""
        if isinstance(record.args, tuple):
            last = len(record.args) - 1
            record.args = tuple(
                printable(one, lines=at == last) if isinstance(one, str) else one for at, one in enumerate(record.args)
            )
        return True


_PLAIN = _Plain()


class TaskWorker(SimpleWorker):
    """RQ's worker inside a thread: no signals, no commands from Redis, no change of the process."""

    death_penalty_class = TimerDeathPenalty
    stopping: threading.Event

    @property
    def dequeue_timeout(self) -> int:
        """Seconds that it sleeps at once; after that it looks whether to stop."""
        return 1

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Say that it is alive, which it does before each task."""
        super().heartbeat(timeout, pipeline)
        if self.stopping.is_set():
            raise StopRequested

    def _install_signal_handlers(self) -> None:
        """Signals are the business of the process."""

    def subscribe(self) -> None:
        """Commands sent through Redis could end the process."""

    def procline(self, message: str) -> None:
        """The name of the process is its own."""

    def clean_group_registries(self) -> None:
        """There are no groups, and RQ would unpickle what it finds in one."""


def broker_tasks(url: str, blobs: Blobs, **options: Any) -> Mapping[str, Task]:
    """The tasks of this room.

    Args:
        url: of Redis.
        blobs: where results are.
        options: of `Lane`.

    Returns:
        ``expire_results`` and ``expire_uploads``, to be run every minute or so; and ``reclaim``, every few seconds, for
        models whose workers are all gone.
    """

    async def expire_results() -> int:
        if isinstance(blobs, DirectoryBlobs):
            await blobs.clear_drafts()
        async with connect(url) as client:
            return await Lane(client, blobs, **options).expire_results()

    async def reclaim() -> int:
        async with connect(url) as client:
            return len(await Lane(client, blobs, **options).reclaim())

    async def expire_uploads() -> int:
        async with connect(url) as client:
            return await Uploads(client, blobs).expire()

    return {"expire_results": expire_results, "reclaim": reclaim, "expire_uploads": expire_uploads}
