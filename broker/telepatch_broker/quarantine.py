"""Jobs that workers died of: out of the queue, and kept for whoever runs the service, until they are looked at.

A job comes here when two workers have died while they had it (`Lane.reclaim`). Its owner sees it failed, with
`WorkerLost`. What it takes to run it again stays here, also after its record is gone; of many, the newest.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from typing import Any, cast

import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.blobs import Blobs, read_all
from telepatch_broker.jobs import LaneName, NewJob, parents_from_json, saves_from_json
from telepatch_broker.lane import Lane
from telepatch_broker.scripting import Scripts
from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import NotFound, from_record
from telepatch_protocol.jobs import Price, Priority, new_job_id


class Loss(Frozen):
    """A worker that had the job when it was lost, and when, in Unix time; `dead` if it did not say that it lives."""

    worker: str
    at: float
    dead: bool = True


class Held(Frozen):
    """A job in quarantine; times are Unix times in seconds.

    Attributes:
        at: when it was put there.
        losses: with whom it was lost; their logs end with what happened.
        parents: ids of the jobs whose values it uses.
        document_bytes: the length of its document, which `Quarantine.document` gives.
        attachment: bytes of the tensors that it brought along, or the blob that holds them.
    """

    id: str
    person: str
    model: str
    lane: LaneName
    submitted: float
    at: float
    attempts: int
    losses: tuple[Loss, ...]
    parents: tuple[str, ...] = ()
    document_bytes: int
    attachment: int | str = 0


class Quarantine:
    """The jobs there.

    Args:
        client: from `telepatch_broker.connection.connect`.
        blobs: where attachments are.

    Example:
        >>> quarantine = Quarantine(connect("redis://localhost"), DirectoryBlobs(Path("blobs")))
        >>> [held] = await quarantine.all()
        >>> await quarantine.document(held.id)
    """

    def __init__(self, client: redis.asyncio.Redis, blobs: Blobs) -> None:
        self._redis = client
        self._blobs = blobs
        self._run = Scripts(client)

    async def all(self) -> list[Held]:
        """Every job there, the newest first."""
        ids = cast("list[bytes]", await self._redis.zrevrange(keys.QUARANTINE, 0, -1))
        found = [await self._fields(id.decode()) for id in ids]
        return [_held(id.decode(), fields) for id, fields in zip(ids, found, strict=True) if fields]

    async def get(self, id: str) -> Held:
        """One of them.

        Raises:
            NotFound: it is not there.
        """
        return _held(id, await self._there(id))

    async def document(self, id: str) -> bytes:
        """The request as it was checked and queued, JSON.

        Raises:
            NotFound: it is not there.
        """
        return (await self._there(id)).get("document", b"")

    async def release(self, id: str, *, result_seconds: float = 86400.0) -> str:
        """Queue it again under a new id, for the person whose it is; it is taken without others beside it.

        Returns:
            The new id.

        Raises:
            NotFound: it is not there; or what it uses is there no more, and it stays.
        """
        job = await self._again(await self._there(id))
        [accepted] = await Lane(self._redis, self._blobs, result_seconds=result_seconds).submit([job])
        if accepted.error is not None:
            raise from_record(accepted.error)
        await self.drop(id)
        return job.id

    async def drop(self, id: str) -> None:
        """Forget it.

        Raises:
            NotFound: it is not there.
        """
        if not await self._run("quarantine_drop", keys.check_id(id)):
            raise _missing(id)

    async def _again(self, fields: Mapping[str, bytes]) -> NewJob:
        blob = fields.get("uses", b"").decode()
        price = fields.get("price")
        return NewJob(
            new_job_id(),
            _text(fields, "person"),
            _text(fields, "model"),
            document=fields.get("document", b""),
            tokens=fields.get("tokens", b""),
            attachment=await read_all(self._blobs, blob) if blob else fields.get("attachment", b""),
            parents=parents_from_json(fields.get("parents", b"{}")),
            data=json.loads(fields.get("data") or b"{}"),
            price=Price.model_validate_json(price) if price else None,
            cost=int(fields.get("cost", b"1")),
            alone=True,
            group=_text(fields, "group"),
            saves=saves_from_json(fields.get("saves", b"{}")),
            lane=_lane(fields),
            priority=cast("Priority", _text(fields, "priority") or "normal"),
        )

    async def _there(self, id: str) -> dict[str, bytes]:
        found = await self._fields(keys.check_id(id))
        if not found:
            raise _missing(id)
        return found

    async def _fields(self, id: str) -> dict[str, bytes]:
        found = await cast("Awaitable[dict[bytes, bytes]]", self._redis.hgetall(keys.quarantined(id)))
        return {name.decode(): value for name, value in found.items()}


def _missing(id: str) -> NotFound:
    return NotFound(f"there is no job {id} in quarantine; telepatch quarantine list shows those that are there")


def _text(fields: Mapping[str, bytes], name: str) -> str:
    return fields.get(name, b"").decode()


def _lane(fields: Mapping[str, bytes]) -> LaneName:
    return "long" if fields.get("lane") else "interactive"


def _held(id: str, fields: Mapping[str, bytes]) -> Held:
    losses: list[dict[str, Any]] = json.loads(fields.get("losses", b"[]"))
    return Held(
        id=id,
        person=_text(fields, "person"),
        model=_text(fields, "model"),
        lane=_lane(fields),
        submitted=int(fields.get("submitted", b"0")) / 1000,
        at=int(fields["at"]) / 1000,
        attempts=int(fields.get("attempts", b"0")),
        losses=tuple(Loss(worker=one["worker"], at=one["at"] / 1000, dead=one["dead"]) for one in losses),
        parents=tuple(json.loads(fields.get("parents", b"{}"))),
        document_bytes=len(fields.get("document", b"")),
        attachment=_text(fields, "uses") or len(fields.get("attachment", b"")),
    )
