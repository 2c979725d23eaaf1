"""New blobs: written under names of their own, and gone again unless something refers to them soon."""

from __future__ import annotations

import secrets
from typing import Final

import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.blobs import Blobs, Source
from telepatch_broker.connection import now_ms
from telepatch_broker.scripting import Scripts

RESERVED_MS: Final = 3600 * 1000


async def store(client: redis.asyncio.Redis, blobs: Blobs, kind: str, data: Source) -> str:
    """Write a blob that goes away by itself unless it is taken out of the garbage; returns its name."""
    name = _name(kind)
    now = await now_ms(client)
    await client.zadd(keys.GARBAGE, {name: now + RESERVED_MS})
    await blobs.put(name, data)
    return name


async def store_anyway(run: Scripts, blobs: Blobs, kind: str, data: Source) -> str:
    """As `store`, for what accepted jobs give: also while Redis is full."""
    name = _name(kind)
    await run("reserve", name, RESERVED_MS)
    await blobs.put(name, data)
    return name


def _name(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(16)}"
