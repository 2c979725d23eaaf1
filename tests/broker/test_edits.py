"""Edits in Redis: stored, replaced, owned and counted."""

from __future__ import annotations

import hashlib

import pytest
import redis.asyncio

from telepatch_broker import edits as module
from telepatch_broker.edits import Edits
from telepatch_protocol.errors import NotFound, PayloadTooLarge


async def test_an_edit_is_stored_read_replaced_and_deleted(client: redis.asyncio.Redis):
    edits = Edits(client)
    first, new = await edits.put("ada", "steer", '{"a": "b c %s"}')
    assert new
    assert (first.document, first.version) == (
        '{"a": "b c %s"}',
        hashlib.sha256(b'{"a": "b c %s"}').hexdigest(),
    )
    second, new = await edits.put("ada", "steer", "{}")
    assert not new
    assert second.version != first.version
    assert second.changed >= first.changed > 1e9
    await edits.put("ada", "clip", "{}")
    assert list(await edits.all_of("ada")) == ["clip", "steer"]
    assert set(await edits.some("ada", ["steer", "none"])) == {"steer"}
    await edits.delete("ada", "steer")
    with pytest.raises(NotFound, match="'steer'"):
        await edits.get("ada", "steer")
    with pytest.raises(NotFound, match="'steer'"):
        await edits.delete("ada", "steer")


async def test_an_edit_of_somebody_else_is_not_there(client: redis.asyncio.Redis):
    edits = Edits(client)
    await edits.put("ada", "steer", "{}")
    assert await edits.all_of("bob") == {}
    with pytest.raises(NotFound):
        await edits.get("bob", "steer")
    with pytest.raises(NotFound):
        await edits.delete("bob", "steer")
    await edits.put("bob", "steer", "[]")
    assert (await edits.get("ada", "steer")).document == "{}"


async def test_a_person_has_only_so_many(client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_EDITS", 2)
    edits = Edits(client)
    for name in ("a", "b", "a"):
        await edits.put("ada", name, "{}")
    with pytest.raises(PayloadTooLarge, match="2 edits"):
        await edits.put("ada", "c", "{}")
    await edits.delete("ada", "a")
    await edits.put("ada", "c", "{}")
