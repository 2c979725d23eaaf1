"""New blobs: written under names of their own, and gone again unless something refers to them soon."""

from __future__ import annotations

import secrets

import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.blobs import Blobs, Source
from telepatch_broker.connection import now_ms

_RESERVED_MS = 3600 * 1000


async def store(client: redis.asyncio.Redis, blobs: Blobs, kind: str, data: Source) -> str:
    """Write a blob that goes away by itself unless it is taken out of the garbage; returns its name."""
    name = f"{kind}-{secrets.token_hex(16)}"
    now = await now_ms(client)
    await client.zadd(keys.GARBAGE, {name: now + _RESERVED_MS})
    await blobs.put(name, data)
    return name
