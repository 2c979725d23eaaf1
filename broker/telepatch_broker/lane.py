"""The queue: jobs from submission to their end, fair between people, each step atomic.

A model has two lanes. Jobs of the interactive one are over in one go, and workers take them in batches. A job of the
long one trains: a worker has it for a slice of time, and after that it goes on from its checkpoint when its turn has
come again, on whatever worker.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal, cast

import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.blobs import Blobs, Source
from telepatch_broker.connection import BLOCK_SECONDS, follow, now_ms
from telepatch_broker.jobs import Completion, NewJob, TakenJob, parents_from_json, saves_to_json
from telepatch_broker.limits import Limits
from telepatch_broker.records import Records
from telepatch_broker.scripting import Scripts
from telepatch_broker.storing import store, store_anyway
from telepatch_broker.submitting import Submitter
from telepatch_protocol.errors import BadArgument, Conflict, ErrorRecord, NotFound
from telepatch_protocol.jobs import ENDED, INLINE_LIMIT, UNENDED, Accepted, SavedMeta, State

_TAKEN = (
    "person", "document", "tokens", "attachment", "uses", "parents", "cost", "alone", "group", "attempts", "submitted",
    "data", "checkpoint", "spent", "lane", "timeout", "queued", "started", "origin",
)  # fmt: skip
_SWEEP = 200

QUARANTINED = 100
"""How many jobs are kept in quarantine; of more, the newest."""


class Lane(Records):
    """The life of jobs: gateways submit and cancel them, workers take and end them.

    Args:
        client: from `telepatch_broker.connection.connect`.
        blobs: where large attachments and results go.
        result_seconds: how long a result is kept after its job ended.
        record_seconds: how long the record of a job is kept after its result.
        max_attempts: workers that may lose a job, for whatever reason, before it fails.
        max_deaths: workers that may die while they have it, before it goes into quarantine.

    Example:
        >>> lane = Lane(connect("redis://localhost"), DirectoryBlobs(Path("blobs")))
        >>> await lane.submit([NewJob(new_job_id(), "ada", "gpt2", b"{}")])
        >>> [job] = await lane.take("gpt2", "worker-1")
        >>> await lane.complete(job.id, "worker-1", saves={}, result=b"")
        True
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        blobs: Blobs,
        *,
        result_seconds: float = 86400.0,
        record_seconds: float = 7 * 86400.0,
        max_attempts: int = 3,
        max_deaths: int = 2,
    ) -> None:
        super().__init__(client, blobs)
        self._run = Scripts(client)
        self._submitter = Submitter(self._run, self._store, blobs, round(result_seconds * 1000))
        self._record_ms = round(record_seconds * 1000)
        self._limits = (max_attempts, max_deaths)

    # What a gateway does.

    async def submit(self, jobs: Sequence[NewJob], limits: Limits | None = None) -> list[Accepted]:
        """Queue jobs, or let them wait for their parents; once this returns they are durable.

        The same job again is the same job. Jobs of one call may be parents of each other, in any order.

        Args:
            jobs: to be queued.
            limits: of their owner; jobs that would go over one stay out, and with them those that use their values.
                They are held against what the owner has in the same step that queues.

        Returns:
            For each job, in order, its state; or the error that kept this one out, `Conflict` for an id that was used
            with another content, `NotFound` for an unknown parent or a deleted upload, and `TooManyJobs`, `StorageFull`
            and `ComputeSpent` for a limit.

        Raises:
            CausalLoop: jobs wait for each other in a circle; none was queued.
        """
        return await self._submitter.submit(jobs, limits or Limits())

    async def cancel(self, person: str, id: str) -> State:
        """End a job of this person now, whatever it is doing; one that has ended stays as it is.

        Raises:
            NotFound: `person` has no such job.
        """
        return _own(id, await self._run("cancel", keys.check_id(id), person))

    async def cancel_all(self, person: str, ids: Sequence[str]) -> dict[str, State]:
        """As `cancel`, of many jobs; ids that are not of this person's jobs are left out of the answer.

        Jobs that wait for others of these end as cancelled, too, and not for the want of what they waited for.
        """
        known = await self._read(ids, ("person", "state", "parents"))
        mine = {id: fields for id, fields in known.items() if fields["person"] == person.encode()}
        states = {id: cast("State", (fields["state"] or b"").decode()) for id, fields in mine.items()}
        waits = {id: json.loads(mine[id]["parents"] or b"{}") for id, state in states.items() if state == "waiting"}
        # Those that wait go first, each before what it waits for; then the oldest, which stand in front of queues.
        waiting = [id for id in reversed([*TopologicalSorter(waits).static_order()]) if id in waits]
        others = sorted(id for id, state in states.items() if state in UNENDED and id not in waits)
        for some in _in_parts([*waiting, *others]):
            found = await self._run.each("cancel", [(id, person) for id in some])
            states |= {id: _own(id, state) for id, state in zip(some, found, strict=True)}
        return states

    async def cancel_everything(self, person: str, states: Collection[State] = UNENDED) -> list[str]:
        """Cancel all jobs of a person that are in some states; returns their ids, the newest first."""
        wanted: list[str] = []
        last = "+"
        while ids := await self._ids_before(person, last, _SWEEP):
            wanted += [id for id, state in (await self.states(person, ids)).items() if state in states]
            last = f"({ids[-1]}"
        ended = await self.cancel_all(person, wanted)
        return [id for id in wanted if ended.get(id) == "cancelled"]

    async def delete_result(self, person: str, id: str) -> None:
        """Throw away a result; jobs that already wait for it still get it.

        Raises:
            NotFound: `person` has no such job.
            Conflict: the job has not ended.
        """
        state = _own(id, await self._run("discard", keys.check_id(id), person))
        if state not in ENDED:
            raise Conflict(f"job {id} is {state}; cancel it instead")

    # What a worker does.

    async def take(
        self,
        model: str,
        worker: str,
        *,
        max_jobs: int = 32,
        max_tokens: int = 4096,
        max_long: int = 1,
        others_than: Collection[str] = (),
        slice_seconds: float = 30.0,
        lease_seconds: float = 10.0,
        wait_seconds: float = 0.0,
    ) -> list[TakenJob]:
        """Lease jobs that may share a batch, and long ones beside, from the people served least so far.

        Args:
            model: whose queue.
            worker: who takes them.
            max_jobs: the most jobs.
            max_tokens: the most tokens together; the first job is taken whatever it costs.
            max_long: the most long jobs.
            slice_seconds: what each of these counts for in its owner's turn.
            others_than: people whose jobs stay where they are, long ones apart.
            lease_seconds: time until the jobs go to somebody else, unless renewed.
            wait_seconds: how long to wait while there are none.
        """
        deadline = time.monotonic() + wait_seconds
        limits = (round(lease_seconds * 1000), max_jobs, max_tokens, max_long, round(slice_seconds * 1000))
        while True:
            found = await self._run("take", model, worker, *limits, len(others_than), *others_than, *_TAKEN)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return [_taken(model, row) for row in found]
            await self._sleep(model, min(left, BLOCK_SECONDS))

    async def renew(self, worker: str, ids: Sequence[str], *, lease_seconds: float = 10.0) -> set[str]:
        """Keep the leases, and learn which of these jobs are not this worker's any more."""
        if not ids:
            return set()
        return {id.decode() for id in await self._run("renew", worker, round(lease_seconds * 1000), *ids)}

    async def complete(
        self,
        id: str,
        worker: str,
        *,
        saves: Mapping[str, SavedMeta],
        result: bytes | Path,
        warnings: Sequence[str] = (),
        seconds: float = 0.0,
    ) -> bool:
        """Store the result of a job, then let everybody see it; jobs that waited for it become queued in the same step.

        Args:
            id: the job.
            worker: who ran it.
            saves: what is in the result.
            result: the saved values, safetensors.
            warnings: what its author should know.
            seconds: how long it ran.

        Returns:
            False when the job was not this worker's any more, and nothing has changed.
        """
        [mine] = await self.complete_all([Completion(id, saves, result, warnings, seconds)], worker)
        return mine

    async def complete_all(self, completions: Sequence[Completion], worker: str) -> list[bool]:
        """As `complete`, of several jobs in one exchange with the queue."""
        rows = [(keys.check_id(one.id), worker, *await self._values(one)) for one in completions]
        return [bool(found) for found in await self._run.each("complete", rows)]

    async def _values(self, one: Completion) -> tuple[str | bytes | float, ...]:
        """What the queue is told of a result; a large one is stored beside."""
        result = one.result
        size = len(result) if isinstance(result, bytes) else result.stat().st_size
        inline, blob = b"", ""
        if size > INLINE_LIMIT:
            blob = await store_anyway(self._run, self._blobs, "out", result)
        else:
            inline = result if isinstance(result, bytes) else result.read_bytes()
        return saves_to_json(one.saves), inline, blob, size, json.dumps(list(one.warnings)), one.seconds

    async def fail(
        self, id: str, worker: str, error: ErrorRecord, *, warnings: Sequence[str] = (), seconds: float = 0.0
    ) -> bool:
        """End a job with an error, and with it those that wait for its values.

        Returns:
            False when the job was not this worker's any more, and nothing has changed.
        """
        record = error.model_dump_json(exclude_none=True)
        notes = (json.dumps(list(warnings)), seconds)
        return bool(await self._run("fail", keys.check_id(id), worker, record, *notes))

    async def give_back(self, worker: str, ids: Sequence[str]) -> None:
        """Return jobs unfinished to the front of their queues; the attempt does not count."""
        if ids:
            await self._run("requeue", worker, *ids)

    async def note(
        self, id: str, worker: str, type: Literal["progress", "log", "values"], data: Mapping[str, Any]
    ) -> bool:
        """Tell the owner of a running job something; False when the job is not this worker's any more."""
        return bool(await self._run("note", keys.check_id(id), worker, type, json.dumps(data)))

    async def checkpoint(self, id: str, worker: str, data: bytes, *, seconds: float = 0.0) -> bool:
        """Store how far a running job has come, in place of what was stored before; attempts count from here.

        Args:
            id: the job.
            worker: who runs it.
            data: what it takes to go on.
            seconds: how long it has run so far, on all workers.

        Returns:
            False when the job is not this worker's any more.
        """
        blob = await store_anyway(self._run, self._blobs, "checkpoint", data)
        return bool(await self._run("checkpoint", keys.check_id(id), worker, blob, seconds))

    async def slice_over(self, id: str, worker: str, *, slice_seconds: float = 30.0) -> bool:
        """Whether a long job has to make room, now that its slice is over; otherwise another slice of it has begun.

        One that has to, is written down (`checkpoint`) and given back (`give_back`).

        Returns:
            True when others wait for their turn, or the job is not this worker's any more.
        """
        return bool(await self._run("slice", keys.check_id(id), worker, round(slice_seconds * 1000)) != b"stay")

    async def cancellations(self, model: str) -> AsyncIterator[str]:
        """Ids of running jobs at the moment they are cancelled.

        One that is missed, while the connection is lost, is still told by `renew`.
        """
        async for id in follow(self._redis, keys.of_model(model, "cancelled")):
            if id is not None:
                yield id.decode()

    # What anybody does from time to time.

    async def reclaim(self, model: str | None = None) -> list[str]:
        """Take back jobs whose worker has not renewed its lease; they go first, and alone.

        One that was lost too often fails with `WorkerLost`; if workers died of it, it is kept in quarantine.

        Args:
            model: of one model, or of all.
        """
        models = [model] if model is not None else await self._models()
        ids: list[str] = []
        for name in models:
            ids += [id.decode() for id in await self._run("reclaim", name, *self._limits, _SWEEP, QUARANTINED)]
        return ids

    async def expire_results(self) -> int:
        """Drop results and records whose time is over, and blobs that nobody needs; returns the number of results."""
        dropped, seen = 0, _SWEEP
        while seen == _SWEEP:
            some, seen = await self._run("expire", _SWEEP, self._record_ms)
            dropped += some
        await self._collect()
        return dropped

    async def _collect(self) -> None:
        if await self._redis.exists(keys.BACKUP):
            return  # what is in the queue's copy is still to be copied itself
        now = await now_ms(self._redis)
        while names := await self._garbage(now):
            for name in names:
                with suppress(BadArgument):  # nothing of ours is named so, and it must not keep the others here
                    await self._blobs.delete(name.decode(errors="replace"))
            await self._redis.zrem(keys.GARBAGE, *names)

    async def _garbage(self, now: int) -> list[bytes]:
        return cast("list[bytes]", await self._redis.zrangebyscore(keys.GARBAGE, "-inf", now, start=0, num=_SWEEP))

    async def _models(self) -> list[str]:
        found = await cast("Awaitable[set[bytes]]", self._redis.smembers(keys.MODELS))
        return sorted(name.decode() for name in found)

    async def _store(self, kind: str, data: Source) -> str:
        """Write a blob that goes away by itself unless a job refers to it soon; returns its name."""
        return await store(self._redis, self._blobs, kind, data)

    async def _sleep(self, model: str, seconds: float) -> None:
        """Until something may have been queued."""
        await cast("Awaitable[Any]", self._redis.blpop([keys.of_model(model, "wake")], timeout=max(seconds, 0.01)))


def _own(id: str, state: bytes) -> State:
    if not state:
        raise NotFound(f"there is no job {id} among yours")
    return cast("State", state.decode())


def _taken(model: str, row: Sequence[bytes | None]) -> TakenJob:
    id, *values = row
    fields = dict(zip(_TAKEN, values, strict=True))
    blob = fields["uses"]
    return TakenJob(
        id=(id or b"").decode(),
        person=(fields["person"] or b"").decode(),
        model=model,
        document=fields["document"] or b"",
        tokens=fields["tokens"] or b"",
        attachment=None if blob else fields["attachment"] or b"",
        attachment_blob=blob.decode() if blob else None,
        parents=parents_from_json(fields["parents"] or b"{}"),
        cost=int(fields["cost"] or 0),
        alone=fields["alone"] == b"1",
        group=(fields["group"] or b"").decode(),
        attempt=int(fields["attempts"] or 0),
        submitted=int(fields["submitted"] or 0) / 1000,
        data=json.loads(fields["data"] or b"{}"),
        checkpoint=fields["checkpoint"].decode() if fields["checkpoint"] else None,
        spent=float(fields["spent"] or 0),
        lane="long" if fields["lane"] else "interactive",
        timeout_seconds=float(fields["timeout"]) if fields["timeout"] else None,
        waited=_waited(fields["queued"], fields["started"]),
        origin=json.loads(fields["origin"] or b"{}"),
    )


def _in_parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many as go to the queue in one exchange."""
    return (ids[start : start + _SWEEP] for start in range(0, len(ids), _SWEEP))


def _waited(queued: bytes | None, started: bytes | None) -> float | None:
    """Seconds in the queue; unknown of a job that had begun before it was queued last."""
    waited = None if queued is None or started is None else (int(started) - int(queued)) / 1000
    return waited if waited is not None and waited >= 0 else None
