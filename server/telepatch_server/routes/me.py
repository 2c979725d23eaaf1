"""``/v1/me``: who one is here, and what one request may hold."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from telepatch_protocol import PROTOCOL
from telepatch_protocol.card import Frozen
from telepatch_server.auth import PROTECTED, Person
from telepatch_server.problems import responses
from telepatch_server.services import Services, services

router = APIRouter(prefix="/v1/me", tags=["me"], dependencies=PROTECTED, responses=responses(401, 403, 422))


class RequestLimits(Frozen):
    """What one request may hold, and how long it may wait."""

    body_bytes: int
    upload_bytes: int
    jobs: int
    results: int
    wait_seconds: float
    json_values: int


class DataQuota(Frozen):
    """How many bytes one's uploads count for, and how many these may be."""

    bytes: int
    limit: int


class Me(Frozen):
    """The person that an API key belongs to, and what this service grants."""

    person: str
    protocol: tuple[int, int] = PROTOCOL
    limits: RequestLimits
    data: DataQuota
    result_seconds: float


@router.get("")
async def me(person: Person, found: Annotated[Services, Depends(services)]) -> Me:
    """Who one is here, and what one may."""
    settings = found.settings
    limits = RequestLimits(
        body_bytes=settings.gateway_body_bytes,
        upload_bytes=settings.gateway_upload_bytes,
        jobs=settings.gateway_jobs,
        results=settings.gateway_results,
        wait_seconds=settings.gateway_wait_seconds,
        json_values=settings.gateway_json_values,
    )
    data = DataQuota(bytes=await found.uploads.used(person), limit=settings.gateway_data_bytes)
    return Me(person=person, limits=limits, data=data, result_seconds=settings.result_seconds)
