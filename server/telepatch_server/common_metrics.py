"""What stands in Redis, for Prometheus: every gateway of a deployment says the same of it.

Where Redis does not answer, what is left is ``telepatch_redis_up 0`` and the disk: the page is needed most then.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from telepatch_broker.condition import Condition, Queue, Server, Totals
from telepatch_broker.connection import LOST
from telepatch_broker.measures import Measure, Samples, exposition, read
from telepatch_broker.registry import ModelOverview, Registry
from telepatch_broker.worker_measures import TABLE as WORKERS
from telepatch_protocol.jobs import State

_PATIENCE_SECONDS: Final = 2.0
_AWAY: Final[tuple[type[Exception], ...]] = (TimeoutError, OSError, *LOST)

_MODEL: Final = ("model",)
_LANE: Final = ("model", "lane")

UP: Final = Measure("telepatch_redis_up", "gauge", "Whether Redis answers this gateway")
FREE: Final = Measure("telepatch_blob_free_bytes", "gauge", "Bytes free on the disk of this gateway's blob store")
SPACE: Final = Measure("telepatch_blob_disk_bytes", "gauge", "Bytes of that disk")

JOBS: Final = Measure(
    "telepatch_jobs",
    "gauge",
    "Jobs by model and state: of now for waiting, queued and running, since ever for those that ended",
    ("model", "state"),
)
ALIVE: Final = Measure(
    "telepatch_workers",
    "gauge",
    "Workers that are alive: idle, busy, draining, or loading the model",
    ("model", "state"),
)
QUEUED: Final = Measure("telepatch_queue_jobs", "gauge", "Jobs that are ready to be taken", _LANE)
OLDEST: Final = Measure("telepatch_queue_oldest_seconds", "gauge", "How long the oldest of them has waited", _LANE)
PEOPLE: Final = Measure("telepatch_queue_people", "gauge", "People who have jobs that are ready to be taken", _LANE)
PERSON: Final = Measure(
    "telepatch_person_queued_jobs",
    "gauge",
    "Jobs of the people who have most of them in a queue; as many people as TELEPATCH_GATEWAY_METRICS_PEOPLE says",
    (*_LANE, "person"),
)
ATTEMPTS: Final = Measure("telepatch_attempts_total", "counter", "Times that a worker took a job", _MODEL)
RECLAIMED: Final = Measure(
    "telepatch_leases_reclaimed_total", "counter", "Jobs taken back from workers that were not heard of", _MODEL
)
FAILED: Final = Measure("telepatch_failed_jobs_total", "counter", "Jobs that failed, by code", ("model", "code"))
QUARANTINED: Final = Measure(
    "telepatch_quarantined_jobs", "gauge", "Jobs that workers died over, kept for whoever runs this service to look at"
)

MEMORY: Final = Measure("telepatch_redis_memory_bytes", "gauge", "Memory that Redis uses")
LIMIT: Final = Measure("telepatch_redis_memory_limit_bytes", "gauge", "Memory that it may use; 0 for no limit")
CLIENTS: Final = Measure("telepatch_redis_clients", "gauge", "Connections to Redis")
KEYS: Final = Measure("telepatch_redis_keys", "gauge", "Keys in Redis")
JOURNAL: Final = Measure("telepatch_redis_aof_enabled", "gauge", "Whether Redis keeps the journal that jobs survive by")
JOURNAL_OK: Final = Measure(
    "telepatch_redis_aof_ok", "gauge", "Whether the journal was last written and rewritten without trouble"
)

OWN: Final = (UP, FREE, SPACE)
SHARED: Final = (
    JOBS, ALIVE, QUEUED, OLDEST, PEOPLE, PERSON, ATTEMPTS, RECLAIMED, FAILED, QUARANTINED, MEMORY, LIMIT, CLIENTS,
    KEYS, JOURNAL, JOURNAL_OK, *WORKERS,
)  # fmt: skip

Family = tuple[Measure, Samples]


@dataclass(frozen=True)
class _About:
    """What is known of a model."""

    overview: ModelOverview
    counts: dict[State, int]
    queues: list[Queue]
    totals: Totals
    numbers: dict[str, dict[str, Any]]


async def common(registry: Registry, condition: Condition, blobs: Path | str, people: int) -> str:
    """All of it as Prometheus reads it.

    Args:
        registry: which models and workers there are.
        condition: how they stand.
        blobs: folder of the blob store; a bucket has no disk to tell of.
        people: how many people are named in each queue.
    """
    disk = await asyncio.to_thread(_disk, blobs) if isinstance(blobs, Path) else []
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            server = await condition.server()
            models = [await _about(one, registry, condition, people) for one in await registry.overview()]
    except _AWAY:
        return exposition([*disk, (UP, [((), 0)])])
    return exposition([*disk, (UP, [((), 1)]), *_redis(server), *_of_models(models), *_of_workers(models)])


async def _about(one: ModelOverview, registry: Registry, condition: Condition, people: int) -> _About:
    return _About(
        one,
        await registry.counts(one.id),
        await condition.queues(one.id, named=people),
        await condition.totals(one.id),
        await condition.numbers([worker.id for worker in one.workers]),
    )


def _disk(folder: Path) -> list[Family]:
    """The disk of a folder, which may not have been made yet."""
    place = next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))
    usage = shutil.disk_usage(place)
    return [(FREE, [((), usage.free)]), (SPACE, [((), usage.total)])]


def _redis(server: Server) -> Iterator[Family]:
    numbers = {
        QUARANTINED: server.quarantined,
        MEMORY: server.memory,
        LIMIT: server.limit,
        CLIENTS: server.clients,
        KEYS: server.keys,
        JOURNAL: int(server.journal),
        JOURNAL_OK: int(server.journal_ok),
    }
    for measure, number in numbers.items():
        yield measure, [((), number)]


def _of_models(models: Sequence[_About]) -> Iterator[Family]:
    yield JOBS, [((one.overview.id, state), number) for one in models for state, number in one.counts.items()]
    yield ALIVE, [((one.overview.id, state), number) for one in models for state, number in _alive(one.overview)]
    queues = [(one.overview.id, queue) for one in models for queue in one.queues]
    yield QUEUED, [((id, queue.lane), queue.jobs) for id, queue in queues]
    yield OLDEST, [((id, queue.lane), queue.oldest) for id, queue in queues]
    yield PEOPLE, [((id, queue.lane), queue.people) for id, queue in queues]
    yield PERSON, [((id, queue.lane, name), jobs) for id, queue in queues for name, jobs in queue.longest]
    yield ATTEMPTS, [((one.overview.id,), one.totals.attempts) for one in models]
    yield RECLAIMED, [((one.overview.id,), one.totals.reclaimed) for one in models]
    yield FAILED, [((one.overview.id, code), number) for one in models for code, number in one.totals.failed.items()]


def _alive(model: ModelOverview) -> Iterable[tuple[str, int]]:
    draining = sum(worker.state == "draining" for worker in model.workers)
    busy = sum(worker.running > 0 and worker.state != "draining" for worker in model.workers)
    idle = len(model.workers) - busy - draining
    return ("idle", idle), ("busy", busy), ("draining", draining), ("loading", len(model.loading))


def _of_workers(models: Sequence[_About]) -> Iterator[Family]:
    """What workers counted of themselves."""
    for measure in WORKERS:
        own = len(measure.labels) > 2
        yield (
            measure,
            [
                ((one.overview.id, worker, label) if own else (one.overview.id, worker), number)
                for one in models
                for worker, numbers in one.numbers.items()
                for label, number in read(measure, numbers.get(measure.name)).items()
            ],
        )
