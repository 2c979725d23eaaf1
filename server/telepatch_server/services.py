"""What the calls of a running gateway work with, and how long it lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
from fastapi import Request

from telepatch_broker.blobs import Blobs
from telepatch_broker.checks import Readiness, at_start
from telepatch_broker.connection import connect
from telepatch_broker.data import Uploads
from telepatch_broker.edits import Edits
from telepatch_broker.events import EventHub, EventLog
from telepatch_broker.hosts import Hosts
from telepatch_broker.lane import Lane
from telepatch_broker.places import open_blobs
from telepatch_broker.registry import Registry
from telepatch_server.catalogue import Catalogue
from telepatch_server.keys import KeyRing
from telepatch_server.metrics import Metrics
from telepatch_server.settings import Settings

_log = structlog.get_logger(__name__)


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
        hosts: which models hosts are to serve.
        catalogue: their cards and tokenizers, kept ready.
        log: events as they are stored.
        hub: events as they happen.
        metrics: what it counts.
        readiness: whether queue and blob store take what is written.
        closing: set when the gateway is asked to end, so that streams end too.
    """

    settings: Settings
    keys: KeyRing | None
    lane: Lane
    uploads: Uploads
    edits: Edits
    blobs: Blobs
    registry: Registry
    hosts: Hosts
    catalogue: Catalogue
    log: EventLog
    hub: EventHub
    metrics: Metrics
    readiness: Readiness
    closing: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def running(settings: Settings, keys: KeyRing | None, metrics: Metrics) -> AsyncIterator[Services]:
    """The services of a gateway, connected, until the block ends.

    Raises:
        Unavailable: the queue or the blob store is not what it has to be (`telepatch_broker.checks`).
    """
    client = connect(settings.queue)
    blobs = open_blobs(settings.blobs)
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
        for risk in await at_start(client, blobs, settings.queue):
            _log.warning("not_as_it_should_be", what=risk.what, found=risk.found, works=risk.works)
        async with EventHub(client) as hub:
            catalogue = Catalogue(registry, settings.gateway_cards_seconds)
            log, edits, readiness = EventLog(client), Edits(client), Readiness(client, blobs)
            yield Services(
                settings,
                keys,
                lane,
                uploads,
                edits,
                blobs,
                registry,
                Hosts(client),
                catalogue,
                log,
                hub,
                metrics,
                readiness,
            )
    finally:
        await client.aclose()


async def services(request: Request) -> Services:
    """The services of the application that got this request."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found
