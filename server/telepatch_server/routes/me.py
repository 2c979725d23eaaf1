"""``/v1/me``: who one is here, what one may have, what one has, and what one request may hold."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from telepatch_broker.limits import Limits
from telepatch_broker.people import Scope
from telepatch_broker.usage import Day, Standing
from telepatch_protocol import PROTOCOL
from telepatch_protocol.card import Frozen
from telepatch_server.auth import PROTECTED, Asking
from telepatch_server.problems import responses
from telepatch_server.services import Services, services

router = APIRouter(prefix="/v1/me", tags=["me"], dependencies=PROTECTED, responses=responses(401, 403, 422, 429))

_DAYS = 30


class RequestLimits(Frozen):
    """What one request may hold, and how long it may wait."""

    body_bytes: int
    upload_bytes: int
    jobs: int
    results: int
    wait_seconds: float
    json_values: int


class DataQuota(Frozen):
    """How many bytes one's uploads count for, and how many these and results may be together; null for no limit."""

    bytes: int
    limit: int | None


class Me(Frozen):
    """The person that an API key belongs to, and what this service grants.

    Attributes:
        scope: what the key is good for.
        key: id of the key; null for whoever asks without one.
        limits: what one request may hold.
        may: what one may have altogether; null where there is no limit.
        has: what one has now.
        usage: what one has used up on each of the last 30 days (UTC), oldest first.
    """

    person: str
    scope: Scope
    key: str | None
    protocol: tuple[int, int] = PROTOCOL
    limits: RequestLimits
    may: Limits
    has: Standing
    usage: tuple[Day, ...]
    data: DataQuota
    result_seconds: float


@router.get("")
async def me(known: Asking, found: Annotated[Services, Depends(services)]) -> Me:
    """Who one is here, what one may have, and what one has."""
    settings = found.settings
    limits = RequestLimits(
        body_bytes=settings.gateway_body_bytes,
        upload_bytes=settings.gateway_upload_bytes,
        jobs=settings.gateway_jobs,
        results=settings.gateway_results,
        wait_seconds=settings.gateway_wait_seconds,
        json_values=settings.gateway_json_values,
    )
    has = await found.usage.standing(known.person)
    return Me(
        person=known.person,
        scope=known.scope,
        key=known.key,
        limits=limits,
        may=known.limits,
        has=has,
        usage=tuple(await found.usage.days([known.person], _DAYS)),
        data=DataQuota(bytes=has.uploads, limit=known.limits.bytes_stored),
        result_seconds=settings.result_seconds,
    )
