"""What has to be right for a worker to start, beside its settings."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from telepatch_broker.blobs import Blobs
from telepatch_broker.checks import of_places, of_room
from telepatch_broker.connection import connect
from telepatch_broker.gateway_blobs import GatewayBlobs
from telepatch_broker.places import open_blobs
from telepatch_protocol.errors import TelepatchError
from telepatch_protocol.findings import Finding
from telepatch_worker.cards import read_card
from telepatch_worker.settings import Settings


def findings() -> list[Finding]:
    """Everything about the worker that this environment describes."""
    settings = Settings.from_environment()
    return [
        Finding("settings", "ok", "understood"),
        *of_cards(settings),
        *of_files(settings),
        *asyncio.run(_of_places(settings)),
    ]


def blobs_of(settings: Settings) -> Blobs:
    """Where a worker puts results: a folder or bucket that it shares with the gateway, or through the gateway."""
    if settings.gateway_url is not None and settings.worker_token is not None:
        return GatewayBlobs(settings.gateway_url, settings.worker_token)
    return open_blobs(settings.blobs)


async def _of_places(settings: Settings) -> list[Finding]:
    blobs = blobs_of(settings)
    try:
        async with connect(settings.queue) as client:
            return [one async for one in of_places(client, blobs, settings.queue)]
    finally:
        if isinstance(blobs, GatewayBlobs):
            await blobs.aclose()


def of_cards(settings: Settings) -> Iterator[Finding]:
    """The card files, and the one to be served."""
    files = sorted(settings.models.glob("*.toml")) if settings.models.is_dir() else []
    if not files:
        yield Finding(
            "model cards", "fail", f"none in {settings.models}", "TELEPATCH_MODELS is the folder of card files"
        )
    good: set[str] = set()
    for file in files:
        try:
            good.add(read_card(file).id)
        except TelepatchError as error:
            yield Finding("model cards", "fail", str(error))
    if good:
        yield Finding("model cards", "ok", f"{len(good)} in {settings.models}")
    if settings.model is None:
        yield Finding("model to serve", "ok", "none named: --model says, or a host")
    elif settings.model.endswith(".toml"):
        try:
            yield Finding("model to serve", "ok", read_card(Path(settings.model)).id)
        except (TelepatchError, OSError) as error:
            yield Finding("model to serve", "fail", str(error))
    elif settings.model not in good:
        yield Finding("model to serve", "fail", f"no card {settings.model!r}", f"there are: {', '.join(sorted(good))}")
    else:
        yield Finding("model to serve", "ok", settings.model)


def of_files(settings: Settings) -> Iterator[Finding]:
    """The cache of weights, and the token for gated ones."""
    yield of_room("disk of the weights", settings.cache)
    place = next(one for one in (settings.cache, *settings.cache.parents) if one.exists())
    if not os.access(place, os.W_OK):
        works = "TELEPATCH_CACHE is a folder that this user may write to"
        yield Finding("cache of weights", "fail", f"{place} cannot be written to", works)
    if settings.token_file is not None and not os.access(settings.token_file, os.R_OK):
        yield Finding("token for gated weights", "fail", f"{settings.token_file} cannot be read")
