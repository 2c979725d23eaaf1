"""``/v1/data``: data that a person sends once, in parts if need be, and names in many jobs by its sha256."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from telepatch_protocol.card import Frozen
from telepatch_protocol.data import Upload
from telepatch_protocol.errors import ProtocolError
from telepatch_server.auth import PROTECTED, Asking, Person
from telepatch_server.problems import responses
from telepatch_server.ranges import stream
from telepatch_server.routes.jobs import Format
from telepatch_server.routes.results import SAFETENSORS, preferred
from telepatch_server.services import Services, services

PREFIX = "/v1/data"

router = APIRouter(prefix=PREFIX, tags=["data"], dependencies=PROTECTED, responses=responses(401, 403, 422, 429, 503))

Found = Annotated[Services, Depends(services)]

_PART = re.compile(r"\s*bytes\s+(?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18})\s*")

_BYTES: dict[str, Any] = {SAFETENSORS: {"schema": {"type": "string", "format": "binary"}}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": Upload, "description": "safetensors, or what is known of it", "content": {SAFETENSORS: {}}},
    204: {"description": "To HEAD: not all bytes have come; the header Upload-Offset says how many"},
    206: {"description": "The part that was asked for", "content": {SAFETENSORS: {}}},
    304: {"description": "Not changed"},
    **responses(404, 409, 416),
}


class UploadList(Frozen):
    """A person's uploads, oldest first, how many bytes they have, and how many these may be with those of results."""

    uploads: tuple[Upload, ...]
    bytes: int
    limit: int | None = None


@router.get("", response_model_exclude_none=True)
async def uploads(known: Asking, found: Found) -> UploadList:
    """One's own uploads."""
    kept, used = await found.uploads.all_of(known.person), await found.uploads.used(known.person)
    return UploadList(uploads=tuple(kept), bytes=used, limit=known.limits.bytes_stored)


@router.put(
    "/{sha256}",
    response_class=JSONResponse,
    responses={
        200: {"model": Upload, "description": "All bytes are there, and are what they should be"},
        202: {"model": Upload, "description": "Bytes are missing; go on at Upload-Offset"},
        **responses(400, 409, 413),
    },
    openapi_extra={
        "requestBody": {"required": True, "content": _BYTES},
        "parameters": [
            {
                "name": "Content-Range",
                "in": "header",
                "schema": {"type": "string"},
                "description": "Where these bytes belong: `bytes 0-8388607/20000000`; left out, they are all. "
                "`bytes */20000000` with an empty body begins an upload, and says how far it is.",
            }
        ],
    },
)
async def put(sha256: str, request: Request, known: Asking, found: Found) -> Response:
    """Send data, or a part of it; what came before a connection broke counts."""
    start, size = place_of(request.headers)
    upload = await found.uploads.receive(
        known.person, sha256, size, start, _until_cut(request), most=known.limits.bytes_stored
    )
    return _told(upload, 200 if upload.complete else 202)


@router.head("/{sha256}", response_class=Response, responses=_ANSWERS)
@router.get("/{sha256}", response_class=Response, responses=_ANSWERS)
async def get(
    sha256: str,
    request: Request,
    person: Person,
    found: Found,
    format: Annotated[Format | None, Query(description="In place of the header Accept.")] = None,
) -> Response:
    """The data (in parts, if asked), or as JSON how far the upload is and what is in it."""
    stored = await found.uploads.get(person, sha256)
    upload = stored.upload
    if (format or preferred(request)) == "json":
        return _told(upload, 200)
    if not upload.complete and request.method == "HEAD":
        return Response(None, 204, _place(upload))
    stored = await found.uploads.complete(person, sha256)
    read = found.uploads.read
    answer = stream(request, upload.bytes, f'"{sha256}"', SAFETENSORS, lambda start, stop: read(stored, start, stop))
    answer.headers.update(_place(upload))
    return answer


@router.delete("/{sha256}", status_code=204, responses=responses(404))
async def delete(sha256: str, person: Person, found: Found) -> Response:
    """Forget an upload; jobs that were accepted before still get it, and until then its bytes count."""
    await found.uploads.delete(person, sha256)
    return Response(status_code=204)


def place_of(headers: Mapping[str, str]) -> tuple[int, int]:
    """Where the bytes of a body begin, and how many all parts have together.

    Raises:
        ProtocolError: headers that do not say so.
    """
    length, part = headers.get("content-length"), headers.get("content-range")
    if part is None:
        if length is None:
            raise ProtocolError("the size of the upload is not known; send Content-Length, or Content-Range with parts")
        return 0, int(length)
    match = _PART.fullmatch(part)
    if match is None:
        raise ProtocolError(f"Content-Range is {part[:80]!r}; it should be 'bytes FIRST-LAST/ALL', counted from 0")
    size = int(match[3])
    if match[1] is None:  # no bytes, only what is to come: begins an upload, and says how far it is
        return 0, size
    first, last = int(match[1]), int(match[2])
    if not first <= last < size:
        raise ProtocolError(f"Content-Range is {part!r}, which is no part of {size} bytes")
    if length is not None and int(length) != last - first + 1:
        raise ProtocolError(f"the body has {length} bytes; by its Content-Range {part!r} it has {last - first + 1}")
    return first, size


async def _until_cut(request: Request) -> AsyncIterator[bytes]:
    """The body, as far as it comes: the rest of one that breaks off, or falls silent, can be sent later."""
    try:
        async for chunk in request.stream():
            yield chunk
    except (ClientDisconnect, HTTPException):
        return


def _told(upload: Upload, status: int) -> Response:
    text = upload.model_dump_json(exclude_none=True)
    return Response(text, status, _place(upload) | {"Vary": "Accept"}, "application/json")


def _place(upload: Upload) -> dict[str, str]:
    """How far an upload is, in the headers of the IETF's draft of resumable uploads."""
    return {
        "Upload-Offset": str(upload.received),
        "Upload-Length": str(upload.bytes),
        "Upload-Complete": "?1" if upload.complete else "?0",
    }
