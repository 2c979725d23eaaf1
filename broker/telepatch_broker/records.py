"""What became of jobs: reading their records and results, never changing them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import cast

import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.blobs import Blobs, read_all
from telepatch_broker.jobs import LaneName, Page, Result, TakenJob, saves_from_json
from telepatch_protocol.errors import (
    BadArgument,
    Cancelled,
    Conflict,
    ErrorRecord,
    Expired,
    NotFound,
    TelepatchError,
    from_record,
)
from telepatch_protocol.jobs import ENDED, JobStatus, Price, Priority, State, Timings
from telepatch_protocol.understood import understood

_STATUS = (
    "person", "model", "lane", "state", "attempts", "submitted", "queued", "started", "ended", "price", "error",
    "warnings", "saves", "bytes", "priority", "timeout",
)  # fmt: skip
_RESULT = ("person", "state", "error", "expired", "saves", "bytes", "inline", "blob")

Fields = dict[str, bytes | None]


class Records:
    """Records and results of jobs.

    Args:
        client: from `telepatch_broker.connection.connect`.
        blobs: where large results are.
    """

    def __init__(self, client: redis.asyncio.Redis, blobs: Blobs) -> None:
        self._redis = client
        self._blobs = blobs

    async def status(self, person: str, id: str) -> JobStatus:
        """How a job is doing.

        Raises:
            NotFound: `person` has no such job.
        """
        fields = (await self._read([id], _STATUS))[id]
        _check_owner(fields, person, id)
        return _status(id, fields, await self._position(id, fields))

    async def states(self, person: str, ids: Sequence[str]) -> dict[str, State]:
        """The states of many jobs; ids that are not of this person's jobs are left out."""
        found = await self._read(ids, ("person", "state"))
        return {id: _state(fields) for id, fields in found.items() if fields["person"] == person.encode()}

    async def list_jobs(
        self, person: str, *, state: State | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page:
        """A person's jobs, newest first.

        Args:
            person: whose jobs.
            state: only jobs in this state.
            cursor: where to go on, from the page before.
            limit: the most jobs on the page.
        """
        if not 1 <= limit <= 1000:
            raise BadArgument(f"a page of {limit} jobs was asked for; 1 to 1000 can be")
        jobs: list[JobStatus] = []
        last = f"({keys.check_id(cursor)}" if cursor else "+"
        while ids := await self._ids_before(person, last, limit):
            for id, fields in (await self._read(ids, _STATUS)).items():
                if fields["person"] and state in (None, _state(fields)):
                    jobs.append(_status(id, fields, await self._position(id, fields)))
                if len(jobs) == limit:
                    return Page(tuple(jobs), id)
            last = f"({ids[-1]}"
        return Page(tuple(jobs), None)

    async def result(self, person: str, id: str) -> Result:
        """Where the saved values of a job are.

        Raises:
            NotFound: `person` has no such job.
            Conflict: the job has not ended.
            Expired: its result is no longer kept.
            JobError: what the job failed with.
        """
        fields = (await self._read([id], _RESULT))[id]
        _check_owner(fields, person, id)
        return _result(id, fields)

    async def results(self, person: str, ids: Sequence[str]) -> dict[str, Result | TelepatchError]:
        """`result` for many jobs at once, with what it would raise in the place of what cannot be had."""
        answers: dict[str, Result | TelepatchError] = {}
        for id, fields in (await self._read(ids, _RESULT)).items():
            try:
                _check_owner(fields, person, id)
                answers[id] = _result(id, fields)
            except TelepatchError as error:
                answers[id] = error
        return answers

    async def read(self, result: Result, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The bytes of a result from `start` to `stop`, in chunks."""
        if result.blob is None:
            yield (result.inline or b"")[start:stop]
            return
        async for chunk in self._blobs.get(result.blob, start, stop):
            yield chunk

    async def attachment(self, job: TakenJob) -> bytes:
        """The tensors that were sent along with a job, as safetensors."""
        if job.attachment_blob is not None:
            return await read_all(self._blobs, job.attachment_blob)
        return job.attachment or b""

    async def data(self, job: TakenJob, digest: str) -> bytes:
        """An upload that a taken job uses.

        Raises:
            NotFound: `digest` is not among its uploads.
        """
        if digest not in job.data:
            raise NotFound(f"job {job.id} uses no upload {digest}")
        return await read_all(self._blobs, job.data[digest])

    async def last_checkpoint(self, job: TakenJob) -> bytes:
        """How far an earlier worker came with a job; empty if none came anywhere."""
        return b"" if job.checkpoint is None else await read_all(self._blobs, job.checkpoint)

    async def value(self, job: TakenJob, parent: str) -> bytes:
        """The saved values of another job that a taken job uses, as safetensors.

        Raises:
            NotFound: `parent` is not among the parents of the job.
        """
        if parent not in job.parents:
            raise NotFound(f"job {job.id} uses no value of job {parent}")
        fields = (await self._read([parent], _RESULT))[parent]
        # A result that its owner threw away is still there for those who were promised it.
        result = _result(parent, fields | {"expired": None} if fields["inline"] or fields["blob"] else fields)
        return b"".join([chunk async for chunk in self.read(result)])

    async def queue_length(self, model: str) -> int:
        """Jobs that are ready to be taken."""
        counts = cast("Awaitable[bytes | None]", self._redis.hget(keys.of_model(model, "counts"), "queued"))
        return int(await counts or 0)

    async def _ids_before(self, person: str, last: str, limit: int) -> list[str]:
        found = cast(
            "list[bytes]", await self._redis.zrevrangebylex(keys.jobs_of(person), last, "-", 0, max(limit, 100))
        )
        return [id.decode() for id in found]

    async def _read(self, ids: Sequence[str], names: Sequence[str]) -> dict[str, Fields]:
        pipeline = self._redis.pipeline(transaction=False)
        for id in ids:
            pipeline.hmget(keys.job(keys.check_id(id)), list(names))
        return {
            id: dict(zip(names, values, strict=True)) for id, values in zip(ids, await pipeline.execute(), strict=True)
        }

    async def _position(self, id: str, fields: Fields) -> int | None:
        """About how many jobs go first; the estimate of ``position`` in ``common.lua``."""
        if fields["state"] != b"queued":
            return None
        model, person = _text(fields, "model"), _text(fields, "person")
        lane: LaneName = "long" if fields["lane"] else "interactive"
        own = _priority(fields) or "normal"
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.lpos(keys.queue(model, person, lane, own), id)
        pipeline.zcard(keys.of_lane(model, lane, "people"))
        pipeline.zrank(keys.of_lane(model, lane, "people"), person)
        pipeline.hget(keys.of_model(model, "counts"), "queued")
        for priority in keys.PRIORITIES[: keys.PRIORITIES.index(own)]:
            pipeline.llen(keys.queue(model, person, lane, priority))
        index, people, rank, queued, *before = await pipeline.execute()
        if index is None:
            return None
        first = int(index) + sum(map(int, before))
        return max(0, min(int(queued) - 1, first * int(people) + int(rank or 0)))


def _text(fields: Fields, name: str) -> str:
    return (fields[name] or b"").decode()


def _priority(fields: Fields) -> Priority | None:
    """As it was asked for; None for the usual one."""
    return cast("Priority", _text(fields, "priority")) if fields["priority"] else None


def _state(fields: Fields) -> State:
    return cast("State", _text(fields, "state"))


def _check_owner(fields: Fields, person: str, id: str) -> None:
    if fields["person"] != person.encode():
        raise NotFound(f"there is no job {id} among yours")


def _seconds(fields: Fields, name: str) -> float | None:
    value = fields[name]
    return int(value) / 1000 if value else None


def _status(id: str, fields: Fields, position: int | None) -> JobStatus:
    price, error, size = fields["price"], fields["error"], fields["bytes"]
    return JobStatus(
        id=id,
        model=_text(fields, "model"),
        state=_state(fields),
        position=position,
        attempts=int(fields["attempts"] or 0),
        timings=Timings(
            submitted=_seconds(fields, "submitted") or 0.0,
            queued=_seconds(fields, "queued"),
            started=_seconds(fields, "started"),
            ended=_seconds(fields, "ended"),
        ),
        price=Price.model_validate_json(price) if price else None,
        error=understood(ErrorRecord, error) if error else None,
        warnings=tuple(json.loads(fields["warnings"] or b"[]")),
        saves=saves_from_json(fields["saves"] or b"{}"),
        result_bytes=int(size) if size else None,
        priority=_priority(fields),
        timeout_seconds=float(fields["timeout"]) if fields["timeout"] else None,
    )


def _result(id: str, fields: Fields) -> Result:
    state = _state(fields)
    if state not in ENDED:
        raise Conflict(f"job {id} is {state}; its result can be fetched once it is completed")
    if state == "cancelled":
        raise Cancelled(f"job {id} was cancelled")
    if fields["error"]:
        raise from_record(understood(ErrorRecord, fields["error"]))
    inline, blob = fields["inline"], fields["blob"]
    if fields["expired"] or (inline is None and blob is None):
        raise Expired(f"job {id} completed, but its result is no longer kept; submit it again under a new id")
    saves = saves_from_json(fields["saves"] or b"{}")
    return Result(id, saves, int(fields["bytes"] or 0), inline, blob.decode() if blob else None)
