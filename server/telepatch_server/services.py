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
from telepatch_broker.condition import Condition
from telepatch_broker.connection import connect
from telepatch_broker.data import Uploads
from telepatch_broker.edits import Edits
from telepatch_broker.events import EventHub, EventLog
from telepatch_broker.hosts import Hosts
from telepatch_broker.lane import Lane
from telepatch_broker.people import People
from telepatch_broker.places import open_blobs
from telepatch_broker.registry import Registry
from telepatch_broker.usage import Usage
from telepatch_server.catalogue import Catalogue
from telepatch_server.door import Door, refuse_keyless
from telepatch_server.guesses import Guesses
from telepatch_server.metrics import Metrics
from telepatch_server.settings import Settings

_log = structlog.get_logger(__name__)


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
        hosts: which models hosts are to serve.
        condition: how queues, workers and Redis stand.
        catalogue: their cards and tokenizers, kept ready.
        log: events as they are stored.
        hub: events as they happen.
        metrics: what it counts.
        readiness: whether queue and blob store take what is written.
        guesses: wrong keys of late.
        crowded: people whose last jobs found no room, so that the next ones are looked at with that in mind.
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
    hosts: Hosts
    condition: Condition
    catalogue: Catalogue
    log: EventLog
    hub: EventHub
    metrics: Metrics
    readiness: Readiness
    guesses: Guesses = field(default_factory=Guesses)
    crowded: set[str] = field(default_factory=set)
    closing: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def running(settings: Settings, metrics: Metrics) -> AsyncIterator[Services]:
    """The services of a gateway, connected, until the block ends.

    Raises:
        BadArgument: others can reach it, and nobody has a key.
        Unavailable: the queue or the blob store is not what it has to be (`telepatch_broker.checks`).
    """
    client = connect(settings.queue)
    blobs = open_blobs(settings.blobs)
    registry = Registry(client)
    lane = Lane(client, blobs, result_seconds=settings.result_seconds, record_seconds=settings.record_seconds)
    uploads = Uploads(
        client,
        blobs,
        upload_bytes=settings.gateway_upload_bytes,
        unfinished_seconds=settings.gateway_upload_seconds,
    )
    try:
        for risk in await at_start(client, blobs, settings.queue):
            _log.warning("not_as_it_should_be", what=risk.what, found=risk.found, works=risk.works)
        people = People(client, settings.limits)
        await refuse_keyless(people, settings)
        async with EventHub(client) as hub:
            catalogue = Catalogue(registry, settings.gateway_cards_seconds)
            log, edits, condition = EventLog(client), Edits(client), Condition(client)
            readiness = Readiness(client, blobs)
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
                Hosts(client),
                condition,
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
