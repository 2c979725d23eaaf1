"""What has to be right for a gateway to start, beside its settings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from telepatch_broker.checks import of_places
from telepatch_broker.connection import connect
from telepatch_broker.places import open_blobs
from telepatch_protocol.errors import TelepatchError
from telepatch_protocol.findings import Finding
from telepatch_server import keys
from telepatch_server.auth import key_ring
from telepatch_server.settings import Settings

_FOR_OTHERS = 0o077


def findings() -> list[Finding]:
    """Everything about the gateway that this environment describes."""
    settings = Settings.from_environment()
    return [Finding("settings", "ok", "understood"), *of_keys(settings), *asyncio.run(_of_places(settings))]


async def _of_places(settings: Settings) -> list[Finding]:
    blobs = open_blobs(settings.blobs)
    async with connect(settings.queue) as client:
        return [one async for one in of_places(client, blobs, settings.queue)]


def of_keys(settings: Settings) -> Iterator[Finding]:
    """Who may use it."""
    try:
        key_ring(settings)
    except TelepatchError as error:
        yield Finding("keys", "fail", error.detail)
        return
    if settings.keys_file is None:
        yield Finding("keys", "ok", f"none: everybody on this machine may use {settings.host}, and nobody else")
        return
    people = len(keys.listing(settings.keys_file))
    mode = settings.keys_file.stat().st_mode & 0o777
    if mode & _FOR_OTHERS:
        yield Finding("keys", "warn", f"{settings.keys_file} has mode {mode:o}", f"chmod 600 {settings.keys_file}")
    elif not people:
        yield Finding("keys", "warn", f"{settings.keys_file} has none", "telepatch keys add NAME")
    else:
        yield Finding("keys", "ok", f"{people} in {settings.keys_file}")
