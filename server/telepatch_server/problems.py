"""Errors as answers: RFC 9457 problem details, and the one table of which error has which status."""

from __future__ import annotations

import math
import secrets
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from telepatch_broker.connection import LOST, what_is_wrong
from telepatch_protocol import errors
from telepatch_protocol.errors import BadArgument, NotFound, PayloadTooLarge, TelepatchError, Unauthorized, Unavailable

MEDIA_TYPE: Final = "application/problem+json"

STATUSES: Final[dict[type[TelepatchError], int]] = {
    errors.TelepatchError: 500,
    errors.GraphError: 422,
    errors.ProtocolError: 400,
    errors.VersionError: 400,
    errors.UnknownSite: 422,
    errors.UnknownOperation: 422,
    errors.UnknownName: 422,
    errors.BadArgument: 422,
    errors.ShapeError: 422,
    errors.IndexOutOfRange: 422,
    errors.DtypeError: 422,
    errors.CausalLoop: 422,
    errors.NotYetSupported: 422,
    errors.TooLarge: 422,
    errors.JobOverLimit: 422,
    errors.TraceError: 422,
    errors.NotSaved: 422,
    errors.JobError: 409,
    errors.ExecutionError: 409,
    errors.OutOfMemory: 409,
    errors.TimeLimit: 409,
    errors.WorkerLost: 409,
    errors.DependencyFailed: 409,
    errors.Cancelled: 409,
    errors.Expired: 410,
    errors.ServiceError: 500,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.ModelNotAllowed: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.PayloadTooLarge: 413,
    errors.StorageFull: 413,
    errors.RateLimited: 429,
    errors.TooManyJobs: 429,
    errors.ComputeSpent: 429,
    errors.Unavailable: 503,
    errors.ConnectionFailed: 502,
}
"""Every class of the error tree, and the status of an answer that is one."""

_RETRY_SECONDS = "1"

_log = structlog.get_logger(__name__)


def problem(error: TelepatchError, *, status: int | None = None, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as an answer."""
    cls = next(one for one in type(error).__mro__ if one in STATUSES)
    known = error.record().model_dump(exclude_none=True)
    number = status or STATUSES[cls]
    about = {"type": f"urn:telepatch:error:{known['code']}", "title": _title(cls), "status": number}
    return JSONResponse(about | known, number, _headers(error) | (headers or {}), MEDIA_TYPE)


def install(app: FastAPI) -> FastAPI:
    """Make every error of an application a problem."""
    app.add_exception_handler(TelepatchError, _telepatch)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    for lost in LOST:
        app.add_exception_handler(lost, _lost)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)
    return app


async def _telepatch(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TelepatchError)
    return problem(error)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """A query, path or header that is not of its type."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return problem(BadArgument(f"{place}: {first['msg']}"))


async def _http(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return problem(NotFound(f"there is no {request.method} {request.url.path}; /docs lists all calls"))
    detail = f"{request.method} {request.url.path}: {error.detail}"
    if error.status_code == 400:
        return problem(errors.ProtocolError(detail))
    if error.status_code == 405:
        detail += "; /docs lists all calls"
    return problem(errors.ServiceError(detail), status=error.status_code, headers=dict(error.headers or {}))


async def _lost(request: Request, error: Exception) -> JSONResponse:
    _log.warning("redis lost", error=type(error).__name__)
    return problem(Unavailable(what_is_wrong(error)))


async def _gone(request: Request, error: Exception) -> JSONResponse:
    """Whoever hangs up in the middle of a body hears no answer, and is no fault that a log should hold."""
    return problem(errors.ProtocolError("the body broke off; send it again"))


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """Say nothing of what happened but a number that leads to it in the log."""
    number = secrets.token_hex(6)
    _log.error("unexpected error", id=number, method=request.method, path=_route(request), exc_info=error)
    return problem(TelepatchError(f"something went wrong inside the service; its log has it as {number}"))


def _route(request: Request) -> str:
    return str(getattr(request.scope.get("route"), "path", "unknown"))


def _title(cls: type[TelepatchError]) -> str:
    return (cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip(".")


def _headers(error: TelepatchError) -> dict[str, str]:
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, errors.RateLimited):
        return {"Retry-After": str(math.ceil(error.retry_after))}
    if isinstance(error, Unavailable):
        return {"Retry-After": _RETRY_SECONDS}
    # The rest of a body that is too large is not read, so this connection is of no use any more.
    return {"Connection": "close"} if isinstance(error, PayloadTooLarge) else {}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problems that a call may answer with, for OpenAPI."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": "A problem (RFC 9457)", "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }
