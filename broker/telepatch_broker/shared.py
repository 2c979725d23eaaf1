"""The check at start-up that all processes of a deployment use one and the same blob store."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable
from typing import cast

import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.blobs import Blobs, read_all
from telepatch_protocol.errors import NotFound, Unavailable


async def check_shared(blobs: Blobs, client: redis.asyncio.Redis) -> None:
    """See that this process writes to, and reads from, the blob store that the others use.

    The first process leaves a blob there and its name and content in Redis; the later ones must find it. Everyone also
    writes one of its own, and reads it.

    Raises:
        Unavailable: it does not; the message says what to change.
    """
    await check_own(blobs)
    known = await _first_nonce(blobs, client)
    try:
        found = await read_all(blobs, known["name"])
    except NotFound:
        found = b""
    if found != known["content"].encode():
        raise Unavailable(
            f"the blob store of this process does not hold {known['name']!r}, which another process of this deployment "
            "wrote to its own. Give both the same directory or store, or let the worker go through the gateway. If the "
            f"store was moved or emptied on purpose, delete the key {keys.NONCE!r} in Redis"
        )


async def check_own(blobs: Blobs) -> None:
    """Write a blob, read it, and remove it.

    Raises:
        Unavailable: it cannot be written, or comes back as something else.
    """
    name, content = f"check-{secrets.token_hex(8)}", secrets.token_bytes(16)
    try:
        await blobs.put(name, content)
        if await read_all(blobs, name) != content:
            raise Unavailable("the blob store gives back something else than was written")
        await blobs.delete(name)
    except OSError as error:
        raise Unavailable(f"the blob store cannot be written to: {error}") from error


async def _first_nonce(blobs: Blobs, client: redis.asyncio.Redis) -> dict[str, str]:
    known = await _read_nonce(client)
    if known is not None:
        return known
    name, content = f"nonce-{secrets.token_hex(8)}", secrets.token_hex(16)
    await blobs.put(name, content.encode())
    if not await client.hsetnx(keys.NONCE, "nonce", f"{name} {content}"):
        await blobs.delete(name)
    return await _read_nonce(client) or {"name": name, "content": content}


async def _read_nonce(client: redis.asyncio.Redis) -> dict[str, str] | None:
    stored = await cast("Awaitable[bytes | None]", client.hget(keys.NONCE, "nonce"))
    if stored is None:
        return None
    name, _, content = stored.decode().partition(" ")
    return {"name": name, "content": content}
