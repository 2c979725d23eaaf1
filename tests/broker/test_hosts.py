"""What is wanted, and who has which seat."""

from __future__ import annotations

import pytest
import redis.asyncio

from telepatch_broker import hosts
from telepatch_broker.hosts import HostInfo, Hosts
from telepatch_broker.registry import Registry
from telepatch_protocol.errors import BadArgument, Conflict, NotFound


async def alive(client: redis.asyncio.Redis, *names: str) -> Hosts:
    found = Hosts(client)
    for name in names:
        await found.tell(HostInfo(name=name, pid=1, started=1.0))
    return found


async def test_what_is_wanted_stays_until_it_is_changed(client: redis.asyncio.Redis) -> None:
    found = await alive(client, "one", "two")
    await found.want("gpt2", 2)
    await found.want("bert", host="two")
    await found.want("gpt2", 3)
    wanted = await found.wanted()
    assert [(one.model, one.replicas, one.host) for one in wanted.values()] == [("bert", 1, "two"), ("gpt2", 3, None)]
    await found.want_no_more("gpt2")
    assert list(await found.wanted()) == ["bert"]
    assert await Registry(client).unloaded("gpt2")
    await found.want("gpt2")
    assert not await Registry(client).unloaded("gpt2")


@pytest.mark.parametrize("name", ["", "a/b", "../card", "card.toml", ".hidden", "x" * 201])
async def test_only_ids_of_cards_can_be_wanted(client: redis.asyncio.Redis, name: str) -> None:
    with pytest.raises(BadArgument):
        await (await alive(client, "one")).want(name)


async def test_who_is_not_there_is_named_with_those_who_are(client: redis.asyncio.Redis) -> None:
    with pytest.raises(Conflict, match="telepatch host"):
        await Hosts(client).want("gpt2")
    found = await alive(client, "one", "two")
    with pytest.raises(NotFound, match="no host 'three' is alive; there is one, two"):
        await found.want("gpt2", host="three")
    with pytest.raises(NotFound, match="hosts are to serve none"):
        await found.want_no_more("gpt2")
    assert not await Registry(client).unloaded("gpt2")
    await found.leave("one")
    assert [one.name for one in await found.alive()] == ["two"]


async def test_a_seat_has_one_host_until_it_leaves_or_dies(
    client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Hosts(client)
    assert await found.take_seat("gpt2", 0, "one")
    assert await found.take_seat("gpt2", 0, "one")
    assert not await found.take_seat("gpt2", 0, "two")
    assert await found.take_seat("gpt2", 1, "two")
    await found.leave_seat("gpt2", 0, "two")
    assert not await found.take_seat("gpt2", 0, "two")
    await found.leave_seat("gpt2", 0, "one")
    assert await found.take_seat("gpt2", 0, "two")
    monkeypatch.setattr(hosts, "SEAT_SECONDS", 0.05)
    assert await found.take_seat("gpt2", 0, "two")
    while not await found.take_seat("gpt2", 0, "one"):
        pass


async def test_what_a_newer_host_tells_can_be_read(client: redis.asyncio.Redis) -> None:
    found = await alive(client, "one")
    await client.set("telepatch:host:one", '{"name": "one", "pid": 1, "started": 1.0, "mood": "good"}')
    assert [one.name for one in await found.alive()] == ["one"]
