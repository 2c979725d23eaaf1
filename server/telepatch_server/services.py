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
from telepatch_broker.people import People
from telepatch_broker.registry import Registry
from telepatch_broker.shared import check_shared
from telepatch_broker.usage import Usage
from telepatch_server.catalogue import Catalogue
from telepatch_server.door import Door, refuse_keyless
from telepatch_server.guesses import Guesses
from telepatch_server.metrics import Metrics
from telepatch_server.settings import Settings


@dataclass(frozen=True)
class Services:
    """The parts of one gateway.

    Attributes:
        settings: what it was told.
        people: who may ask, and how much they may have.
        usage: what they have used up.
        door: whether it asks for keys.
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
        guesses: wrong keys of late.
        closing: set when the gateway is asked to end, so that streams end too.
    """

    settings: Settings
    people: People
    usage: Usage
    door: Door
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
    guesses: Guesses = field(default_factory=Guesses)
    closing: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def running(settings: Settings, metrics: Metrics) -> AsyncIterator[Services]:
    """The services of a gateway, connected, until the block ends.

    Raises:
        BadArgument: others can reach it, and nobody has a key.
        Unavailable: Redis does not answer, or the blob store is another one than that of the other processes.
    """
    client = connect(settings.redis_url)
    blobs = DirectoryBlobs(settings.blobs)
    registry = Registry(client)
    lane = Lane(client, blobs, result_seconds=settings.result_seconds, record_seconds=settings.record_seconds)
    uploads = Uploads(
        client,
        blobs,
        upload_bytes=settings.gateway_upload_bytes,
        unfinished_seconds=settings.gateway_upload_seconds,
    )
    try:
        await check(client)
        await check_shared(blobs, client)
        people = People(client, settings.limits)
        await refuse_keyless(people, settings)
        async with EventHub(client) as hub:
            catalogue = Catalogue(registry, settings.gateway_cards_seconds)
            log, edits, condition = EventLog(client), Edits(client), Condition(client)
            usage, door = Usage(client), Door(people, settings)
            yield Services(
                settings,
                people,
                usage,
                door,
                lane,
                uploads,
                edits,
                blobs,
                registry,
                condition,
                catalogue,
                log,
                hub,
                metrics,
            )
    finally:
        await client.aclose()


async def services(request: Request) -> Services:
    """The services of the application that got this request."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found
