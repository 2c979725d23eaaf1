"""``/v1/events``: one stream of server-sent events for all jobs of a person."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import StreamingResponse

from telepatch_broker.events import AT_ONCE, check_place
from telepatch_broker.jobs import Result
from telepatch_broker.people import Caller
from telepatch_protocol.errors import Unavailable
from telepatch_protocol.jobs import INLINE_LIMIT, Event
from telepatch_server.auth import PROTECTED, Asking
from telepatch_server.problems import responses
from telepatch_server.services import Services, services

router = APIRouter(
    prefix="/v1/events", tags=["events"], dependencies=PROTECTED, responses=responses(401, 403, 422, 429, 503)
)

TOGETHER = INLINE_LIMIT
"""Bytes of results that come with events that are told together; the others are fetched, many in one request, which
costs about as much as this many bytes do in base64."""

GOODBYE = "retry: 250\n: this gateway ends; connect again with the last id, here or at another gateway\n\n"
"""The end of a stream whose gateway ends: nothing has been lost, and whoever listens goes on elsewhere."""

_PIECE = 64 * 1024
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get("", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}})
async def events(
    known: Asking,
    found: Annotated[Services, Depends(services)],
    job: Annotated[list[str] | None, Query(description="Only events of these jobs.")] = None,
    after: Annotated[str | None, Query(description="As the header Last-Event-ID.")] = None,
    last_event_id: Annotated[str | None, Header(description="Begin behind this event.")] = None,
) -> StreamingResponse:
    """Everything that happens to one's jobs, from now on or from a place on; small results ride along."""
    if found.closing.is_set():
        raise Unavailable("this gateway is about to end; connect again, to this address or to another gateway")
    place, person = last_event_id or after, known.person
    start = await found.log.last(person) if place is None else check_place(place)
    missed = await found.log.missed(person, start)
    stream = _stream(known, found, start, missed, frozenset(job or ()))
    return StreamingResponse(found.metrics.streaming(stream), media_type="text/event-stream", headers=_HEADERS)


async def _stream(known: Caller, found: Services, start: str, missed: bool, only: frozenset[str]) -> AsyncIterator[str]:
    """Ends with the key that it was opened with: nothing is told to whoever holds one that was removed."""
    yield f"retry: 1000\nid: {start}\n\n"
    if missed:
        yield frame(start, "missed", {"after": start})
    last = start
    async with found.hub.bunches(known.person, start) as arriving:
        async for bunch in _with_pauses(arriving, found.settings.gateway_heartbeat_seconds, found.closing):
            # so many at once come to slow readers, for whom not all may have been kept
            if len(bunch) >= AT_ONCE and await found.log.missed(known.person, last):
                yield frame(last, "missed", {"after": last})
            last = bunch[-1].id if bunch else last
            events = [event for event in bunch if not only or event.job in only]
            results, still = await asyncio.gather(_riding(events, known.person, found), found.people.still(known))
            if not still:
                return
            if events:
                for text in _told(events, results):
                    yield text
            elif not bunch:
                yield ": heartbeat\n\n"
    if found.closing.is_set():
        yield GOODBYE


def frame(place: str, type: str, data: dict[str, Any]) -> str:
    """One event as it stands in the stream."""
    return f"id: {place}\nevent: {type}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


async def _with_pauses(
    arriving: AsyncIterator[list[Event]], seconds: float, closing: asyncio.Event
) -> AsyncIterator[list[Event]]:
    """Events as they come, and none of them whenever none came for so long; ends when the gateway does."""
    end = asyncio.ensure_future(closing.wait())
    coming = asyncio.ensure_future(_next(arriving))
    try:
        while not end.done():
            both: set[asyncio.Future[Any]] = {coming, end}
            await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                yield coming.result()
                coming = asyncio.ensure_future(_next(arriving))
            elif not end.done():
                yield []
    finally:
        # The stream of the hub can only be closed when nobody waits in it any more.
        coming.cancel()
        end.cancel()
        await asyncio.gather(coming, end, return_exceptions=True)


async def _next(arriving: AsyncIterator[list[Event]]) -> list[Event]:
    return await anext(arriving)


def _told(events: list[Event], results: dict[str, bytes]) -> Iterator[str]:
    """Frames of events, as many together as make a piece worth sending; small results that are still there in them."""
    piece: list[str] = []
    size = 0
    for event in events:
        whole = {"id": event.id, "type": event.type, "job": event.job, "at": event.at, "data": event.data}
        if event.type == "completed" and event.job in results:
            whole["data"] = event.data | {"result": base64.b64encode(results[event.job]).decode()}
        piece.append(frame(event.id, event.type, whole))
        size += len(piece[-1])
        if size > _PIECE:
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)


async def _riding(events: list[Event], person: str, found: Services) -> dict[str, bytes]:
    """Results that come with their events: small ones, as many as are not better fetched."""
    jobs: list[str] = []
    left = TOGETHER
    for event in events:
        if event.type == "completed" and 0 < (size := event.data.get("bytes") or 0) <= left:
            jobs.append(event.job)
            left -= size
    kept = await found.lane.results(person, jobs) if jobs else {}
    return {job: one.inline for job, one in kept.items() if isinstance(one, Result) and one.inline is not None}
