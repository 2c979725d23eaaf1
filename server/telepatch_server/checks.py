"""What has to be right for a gateway to start, beside its settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from telepatch_broker.checks import of_places
from telepatch_broker.connection import LOST, connect
from telepatch_broker.people import People
from telepatch_broker.places import open_blobs
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.findings import Finding
from telepatch_server.door import refuse_keyless
from telepatch_server.settings import Settings


def findings() -> list[Finding]:
    """Everything about the gateway that this environment describes."""
    settings = Settings.from_environment()
    return [Finding("settings", "ok", "understood"), *asyncio.run(_all(settings))]


async def _all(settings: Settings) -> list[Finding]:
    blobs = open_blobs(settings.blobs)
    async with connect(settings.queue) as client:
        found = [one async for one in of_places(client, blobs, settings.queue)]
        if found[0].level != "fail":
            found += [one async for one in of_keys(People(client), settings)]
    return found


async def of_keys(people: People, settings: Settings) -> AsyncIterator[Finding]:
    """Who may use it."""
    try:
        await refuse_keyless(people, settings)
        count = len(await people.keys())
    except BadArgument as error:
        yield Finding("keys", "fail", error.detail)
    except LOST as error:
        yield Finding("keys", "fail", str(error))
    else:
        nobody = f"none: everybody on this machine may use {settings.host}, and nobody else"
        yield Finding("keys", "ok", f"{count} keys" if await people.keyed() else nobody)
