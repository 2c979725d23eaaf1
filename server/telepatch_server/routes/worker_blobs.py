"""``/v1/worker/blobs``: the gateway's blob store, for workers that do not share its folder."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from fastapi.security import HTTPBearer

from telepatch_protocol.card import Frozen
from telepatch_server.auth import worker
from telepatch_server.problems import responses
from telepatch_server.ranges import stream
from telepatch_server.services import Services, services

PREFIX = "/v1/worker/blobs"

_SCHEME = HTTPBearer(auto_error=False, scheme_name="WorkerToken", description="The worker token.")

router = APIRouter(
    prefix=PREFIX,
    tags=["worker"],
    dependencies=[Depends(_SCHEME), Depends(worker)],
    responses=responses(401, 403, 422),
)

Found = Annotated[Services, Depends(services)]

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The blob", "content": {"application/octet-stream": {}}},
    206: {"description": "The part that was asked for", "content": {"application/octet-stream": {}}},
    **responses(404, 416),
}


class BlobNames(Frozen):
    """Names of blobs."""

    names: tuple[str, ...]


@router.get("")
async def names(found: Found, prefix: Annotated[str, Query()] = "") -> BlobNames:
    """Names of all blobs that begin with `prefix`."""
    return BlobNames(names=tuple([name async for name in found.blobs.list(prefix)]))


@router.put("/{name}", status_code=204, responses=responses(413))
async def put(name: str, request: Request, found: Found) -> Response:
    """Write a blob; it is there as a whole or not at all."""
    await found.blobs.put(name, request.stream())
    return Response(status_code=204)


@router.head("/{name}", response_class=Response, responses=_ANSWERS)
@router.get("/{name}", response_class=Response, responses=_ANSWERS)
async def get(name: str, request: Request, found: Found) -> Response:
    """Read a blob, or a part of it."""
    size = await found.blobs.size(name)
    read = found.blobs.get
    return stream(request, size, f'"{name}"', "application/octet-stream", lambda start, stop: read(name, start, stop))


@router.delete("/{name}", status_code=204)
async def delete(name: str, found: Found) -> Response:
    """Remove a blob, if it is there."""
    await found.blobs.delete(name)
    return Response(status_code=204)
