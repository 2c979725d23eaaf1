"""``/v1/jobs/{id}/result`` and ``/v1/results``: saved values, one job's or those of many."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import FailFast, Field

from telepatch_broker.jobs import Result
from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import PayloadTooLarge, TelepatchError
from telepatch_server.auth import PROTECTED, Person
from telepatch_server.bodies import body_of, documented
from telepatch_server.problems import responses
from telepatch_server.ranges import stream
from telepatch_server.readable import readable
from telepatch_server.routes.jobs import Format
from telepatch_server.services import Services, services

router = APIRouter(prefix="/v1", tags=["results"], dependencies=PROTECTED, responses=responses(401, 403, 422, 429, 503))

SAFETENSORS = "application/octet-stream"
Found = Annotated[Services, Depends(services)]

_BYTES_PER_NUMBER = 8

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "safetensors, or JSON", "content": {SAFETENSORS: {}, "application/json": {}}},
    206: {"description": "The part that was asked for", "content": {SAFETENSORS: {}}},
    304: {"description": "Not changed"},
    **responses(404, 409, 410, 413, 416),
}


class Wanted(Frozen):
    """The jobs whose results are asked for."""

    jobs: Annotated[tuple[str, ...], FailFast()] = Field(min_length=1)


@router.head("/jobs/{id}/result", response_class=Response, responses=_ANSWERS)
@router.get("/jobs/{id}/result", response_class=Response, responses=_ANSWERS)
async def result(
    request: Request,
    id: str,
    person: Person,
    found: Found,
    format: Annotated[Format | None, Query(description="In place of the header Accept.")] = None,
) -> Response:
    """The saved values of a job, as safetensors (in parts, if asked) or as JSON."""
    kept = await found.lane.result(person, id)
    if (format or preferred(request)) == "json":
        return await _json(id, kept, found)
    return stream(request, kept.size, f'"{id}"', SAFETENSORS, lambda start, stop: found.lane.read(kept, start, stop))


@router.post(
    "/results",
    response_class=StreamingResponse,
    responses={200: {"description": "One frame per job", "content": {SAFETENSORS: {}}}, **responses(400, 413)},
    openapi_extra=documented(Wanted),
)
async def results(
    wanted: Annotated[Wanted, Depends(body_of(Wanted))], person: Person, found: Found
) -> StreamingResponse:
    """Many results in one answer: per job the length of a header, the header, and the values."""
    most = found.settings.gateway_results
    if len(wanted.jobs) > most:
        raise PayloadTooLarge(f"{len(wanted.jobs)} results were asked for; one request may ask for {most}")
    kept = await found.lane.results(person, wanted.jobs)
    return StreamingResponse(_frames([(id, kept[id]) for id in wanted.jobs], found), media_type=SAFETENSORS)


async def _frames(kept: list[tuple[str, Result | TelepatchError]], found: Services) -> AsyncIterator[bytes]:
    for id, one in kept:
        if isinstance(one, TelepatchError):
            yield header({"id": id, "size": 0, "error": one.record().model_dump(exclude_none=True)})
            continue
        saves = {name: meta.model_dump(mode="json") for name, meta in one.saves.items()}
        yield header({"id": id, "size": one.size, "saves": saves})
        async for chunk in found.lane.read(one):
            yield chunk


def header(about: dict[str, Any]) -> bytes:
    """The head of a frame: its length as four bytes, little-endian, and JSON."""
    text = json.dumps(about, separators=(",", ":")).encode()
    return struct.pack("<I", len(text)) + text


def preferred(request: Request) -> Format:
    """JSON if the caller names it before safetensors; a caller that takes anything gets safetensors."""
    for one in request.headers.get("accept", "*/*").split(","):
        kind = one.partition(";")[0].strip().lower()
        if kind == "application/json":
            return "json"
        if kind in (SAFETENSORS, "*/*", "application/*"):
            return "safetensors"
    return "safetensors"


async def _json(id: str, kept: Result, found: Services) -> JSONResponse:
    most = found.settings.gateway_json_values
    if kept.size > most * _BYTES_PER_NUMBER + 2**20:
        raise PayloadTooLarge(
            f"the result has {kept.size:,} bytes, and at most {most:,} numbers travel as JSON; "
            "fetch it as safetensors, or save a part of it"
        )
    data = b"".join([chunk async for chunk in found.lane.read(kept)])
    return JSONResponse({"id": id, "values": readable(data, most)}, headers={"Vary": "Accept"})
