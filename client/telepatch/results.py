"""Many results in one answer: the frames of ``POST /v1/results``."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from telepatch.outcome import Outcome
from telepatch.transport import Transport, persist
from telepatch_protocol.errors import ErrorRecord, ProtocolError
from telepatch_protocol.jobs import SavedMeta
from telepatch_protocol.understood import understood

AT_ONCE = 200
"""Results that are asked for in one request."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrived:
    """One job's result, or the error that stands in its place."""

    job: str
    result: bytes
    saves: dict[str, SavedMeta]
    error: ErrorRecord | None


def unframe(data: bytes) -> Iterator[Arrived]:
    """Each result of an answer, in order.

    Raises:
        ProtocolError: an answer cut short, or one of another form.
    """
    at = 0
    while at < len(data):
        try:
            (length,) = struct.unpack_from("<I", data, at)
            header = json.loads(data[at + 4 : at + 4 + length])
            begin = at + 4 + length
            at = begin + int(header["size"])
            error = header.get("error")
            saves = {name: understood(SavedMeta, found) for name, found in (header.get("saves") or {}).items()}
            record = None if error is None else understood(ErrorRecord, error)
        except (struct.error, ValueError, KeyError, TypeError, AttributeError):
            raise ProtocolError("the answer with results is not of the expected form") from None
        if at > len(data):
            raise ProtocolError("the answer with results was cut short")
        yield Arrived(str(header["id"]), data[begin:at], saves, record)


async def fetch(transport: Transport, outcomes: list[Outcome], patience: Callable[[], float]) -> None:
    """Have the results of completed jobs come, many in one answer; `patience` as for `persist`."""
    for start in range(0, len(outcomes), AT_ONCE):
        await _fetch_some(transport, {one.job: one for one in outcomes[start : start + AT_ONCE]}, patience)


async def _fetch_some(transport: Transport, wanted: dict[str, Outcome], patience: Callable[[], float]) -> None:
    body = json.dumps({"jobs": list(wanted)}).encode()

    async def ask() -> bytes:
        async with transport.exchange("POST", "/v1/results", content=body, timeout=120.0) as response:
            return await response.aread()

    for arrived in unframe(await persist(ask, patience)):
        outcome = wanted.pop(arrived.job)
        if arrived.error is not None:
            outcome.lost(arrived.error)
        else:
            outcome.fetched(arrived.result)
    for outcome in wanted.values():
        outcome.lost(ErrorRecord(code="not_found", detail=f"the service sent no result of job {outcome.job}"))
