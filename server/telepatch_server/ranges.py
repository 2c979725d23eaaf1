"""Parts of a body: the ``Range`` header of RFC 9110, for one range of bytes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Final

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from telepatch_protocol.errors import ServiceError
from telepatch_server.problems import problem

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,20})\s*-\s*(\d{0,20})\s*")
_WHOLE: Final = None

Read = Callable[[int, int], AsyncIterator[bytes]]
"""Gives the bytes from one place to another."""


class Unsatisfiable(ValueError):
    """A range outside of the body."""


def part_of(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one behind the last, or None for the whole body.

    A header that asks for several ranges, or that makes no sense, is passed over, as the RFC allows.

    Raises:
        Unsatisfiable: nothing of the body is in the range.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or match.groups() == ("", ""):
        return _WHOLE
    first, last = match.groups()
    if first == "":
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < int(first):
            return _WHOLE
    if start >= stop:
        raise Unsatisfiable
    return start, stop


def stream(request: Request, size: int, etag: str, media_type: str, read: Read) -> Response:
    """A body, or the part of it that was asked for, as a stream.

    Args:
        request: what was asked.
        size: bytes of the whole body.
        etag: names this very body, in quotes.
        media_type: what it is.
        read: gives its bytes.
    """
    headers = {"Accept-Ranges": "bytes", "ETag": etag, "Vary": "Accept", "Cache-Control": "private"}
    if matches(request.headers.get("if-none-match"), etag):
        return Response(None, 304, headers)
    condition = request.headers.get("if-range")
    try:
        part = part_of(request.headers.get("range") if condition in (None, etag) else None, size)
    except Unsatisfiable:
        detail = f"the range {request.headers.get('range')} is outside of the {size} bytes that there are"
        return problem(ServiceError(detail), status=416, headers={"Content-Range": f"bytes */{size}"})
    start, stop = part or (0, size)
    headers["Content-Length"] = str(stop - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    if request.method == "HEAD":
        return Response(None, 206 if part else 200, headers, media_type)
    return StreamingResponse(read(start, stop), 206 if part else 200, headers, media_type)


def matches(header: str | None, etag: str) -> bool:
    """Whether ``If-None-Match`` names this body."""
    if header is None:
        return False
    named = [one.strip().removeprefix("W/") for one in header.split(",")]
    return "*" in named or etag.removeprefix("W/") in named
