"""A queue of a version that this process does not know keeps it from starting."""

from __future__ import annotations

import pytest
import redis.asyncio

from telepatch_broker import keys, schema
from telepatch_broker.schema import SCHEMA, check_schema
from telepatch_protocol.errors import Unavailable


async def test_an_empty_queue_becomes_one_of_this_version(client: redis.asyncio.Redis) -> None:
    await check_schema(client)
    assert await client.get(keys.SCHEMA) == str(SCHEMA).encode()
    await check_schema(client)


@pytest.mark.parametrize("found", ["2", "17", "x"])
async def test_a_newer_queue_asks_for_a_newer_process(client: redis.asyncio.Redis, found: str) -> None:
    await client.set(keys.SCHEMA, found)
    with pytest.raises(Unavailable, match=rf"of version '{found}'.* knows version {SCHEMA}; install the version"):
        await check_schema(client)
    assert await client.get(keys.SCHEMA) == found.encode()


async def test_an_older_queue_has_to_be_brought_up_first(
    client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await check_schema(client)
    monkeypatch.setattr(schema, "SCHEMA", SCHEMA + 1)
    with pytest.raises(Unavailable, match=r"has to be brought to version 2 first: docs/upgrading\.md"):
        await check_schema(client)
