"""``/healthz``, ``/readyz`` and ``/metrics``: for machines that watch the gateway."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from telepatch_broker.connection import LOST
from telepatch_broker.measures import CONTENT_TYPE
from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import Unavailable
from telepatch_server.auth import operator
from telepatch_server.common_metrics import common
from telepatch_server.problems import responses
from telepatch_server.services import Services, services

router = APIRouter(tags=["health"])

Found = Annotated[Services, Depends(services)]

_PATIENCE_SECONDS: Final = 2.0
_AWAY: Final[tuple[type[Exception], ...]] = (TimeoutError, OSError, *LOST)


class Alive(Frozen):
    """The process answers."""

    alive: bool = True


class Ready(Frozen):
    """Jobs would run: the queue and the blob store take writes, and these models have this many workers."""

    ready: bool = True
    workers: dict[str, int]


@router.get("/healthz")
async def healthz() -> Alive:
    """Whether this process is alive; says nothing of the others."""
    return Alive()


@router.get("/readyz", responses=responses(422, 503))
async def readyz(
    found: Found,
    workers: Annotated[
        bool, Query(description="Whether a worker must be alive, too; a gateway takes jobs without.")
    ] = True,
) -> Ready:
    """Whether a job would run now; if not, which part is missing."""
    if found.closing.is_set():
        raise Unavailable("not ready: this gateway is about to end")
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            overview = await found.registry.overview()
            trouble = await found.readiness.trouble()
    except _AWAY:
        raise Unavailable("not ready: Redis does not answer") from None
    if trouble is not None:
        raise Unavailable(f"not ready: {trouble}")
    counts = {model.id: sum(worker.state == "ready" for worker in model.workers) for model in overview}
    alive = {model: count for model, count in counts.items() if count}
    if workers and not alive:
        loading = [f"{model.id}: {one.stage}" for model in overview for one in model.loading]
        raise Unavailable(f"not ready: no worker is alive ({', '.join(loading) or 'none is loading a known model'})")
    return Ready(workers=alive)


@router.get(
    "/metrics",
    response_class=Response,
    dependencies=[Depends(operator)],
    responses={200: {"content": {"text/plain": {}}}, **responses(401, 403)},
)
async def metrics(found: Found) -> Response:
    """Numbers for Prometheus: this gateway's own, and those that every gateway tells alike."""
    settings = found.settings
    shared = await common(found.registry, found.condition, settings.blobs, settings.gateway_metrics_people)
    return Response(found.metrics.exposition() + shared, media_type=CONTENT_TYPE)
