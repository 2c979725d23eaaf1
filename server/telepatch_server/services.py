"""What the calls of a running gateway work with, and how long it lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Request

from telepatch_broker.blobs import Blobs, DirectoryBlobs
from telepatch_broker.condition import Condition
from telepatch_broker.connection import check, connect
from telepatch_broker.data import Uploads
from telepatch_broker.edits import Edits
from telepatch_broker.events import EventHub, EventLog
from telepatch_broker.lane import Lane
from telepatch_broker.registry import Registry
from telepatch_broker.shared import check_shared
from telepatch_server.catalogue import Catalogue
from telepatch_server.keys import KeyRing
from telepatch_server.metrics import Metrics
from telepatch_server.settings import Settings


@dataclass(frozen=True)
class Services:
    """The parts of one gateway.

    Attributes:
        settings: what it was told.
        keys: None when it asks for none.
        lane: where jobs are queued.
        uploads: what people sent for their jobs.
        edits: what people stored to apply it in their jobs.
        blobs: where large results are.
        registry: which models and workers there are.
        condition: how queues, workers and Redis stand.
        catalogue: their cards and tokenizers, kept ready.
        log: events as they are stored.
        hub: events as they happen.
        metrics: what it counts.
        closing: set when the gateway is asked to end, so that streams end too.
    """

    settings: Settings
    keys: KeyRing | None
    lane: Lane
    uploads: Uploads
    edits: Edits
    blobs: Blobs
    registry: Registry
    condition: Condition
    catalogue: Catalogue
    log: EventLog
    hub: EventHub
    metrics: Metrics
    closing: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def running(settings: Settings, keys: KeyRing | None, metrics: Metrics) -> AsyncIterator[Services]:
    """The services of a gateway, connected, until the block ends.

    Raises:
        Unavailable: Redis does not answer, or the blob store is another one than that of the other processes.
    """
    client = connect(settings.redis_url)
    blobs = DirectoryBlobs(settings.blobs)
    registry = Registry(client)
    lane = Lane(client, blobs, result_seconds=settings.result_seconds, record_seconds=settings.record_seconds)
    uploads = Uploads(
        client,
        blobs,
        person_bytes=settings.gateway_data_bytes,
        upload_bytes=settings.gateway_upload_bytes,
        unfinished_seconds=settings.gateway_upload_seconds,
    )
    try:
        await check(client)
        await check_shared(blobs, client)
        async with EventHub(client) as hub:
            catalogue = Catalogue(registry, settings.gateway_cards_seconds)
            log, edits, condition = EventLog(client), Edits(client), Condition(client)
            yield Services(
                settings, keys, lane, uploads, edits, blobs, registry, condition, catalogue, log, hub, metrics
            )
    finally:
        await client.aclose()


async def services(request: Request) -> Services:
    """The services of the application that got this request."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found
