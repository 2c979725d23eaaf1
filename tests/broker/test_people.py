"""People and their keys, in the state that all gateways share."""

from __future__ import annotations

import asyncio
import hashlib
import time

import pytest
import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.connection import connect
from telepatch_broker.limits import Limits
from telepatch_broker.people import People
from telepatch_protocol.errors import BadArgument, NotFound, RateLimited, Unauthorized


@pytest.fixture
def people(client: redis.asyncio.Redis) -> People:
    return People(client)


async def everything(client: redis.asyncio.Redis) -> str:
    """All that Redis holds, as text."""
    found = []
    async for key in client.scan_iter():
        kind = await client.type(key)
        read = {b"string": client.get, b"hash": client.hgetall, b"set": client.smembers}.get(kind)
        found.append(f"{key!r} {await read(key) if read else await client.zrange(key, 0, -1)!r}")
    return "\n".join(found)


async def test_a_key_is_known_as_its_persons_and_another_is_not(people: People) -> None:
    ada, bob = await people.add("ada"), await people.add("bob", "read")
    assert ada.key.startswith("tp_")
    assert len(ada.key) > 40
    found = await people.ask(ada.key)
    assert (found.person, found.scope, found.key) == ("ada", "submit", ada.id)
    assert (await people.ask(bob.key)).scope == "read"
    for wrong in ("tp_wrong", "", ada.key[:-1], ada.id):
        with pytest.raises(Unauthorized, match="not known here"):
            await people.ask(wrong)


async def test_no_key_stands_in_redis(people: People, client: redis.asyncio.Redis) -> None:
    made = await people.add("ada")
    await people.ask(made.key)
    rotated = await people.rotate(made.id, grace_seconds=60)
    text = await everything(client)
    assert made.id in text
    for one in (made, rotated):
        assert one.key not in text
        assert one.key.removeprefix("tp_") not in text


async def test_a_person_may_have_several_keys_and_each_is_listed_without_itself(people: People) -> None:
    first, second = await people.add("ada"), await people.add("ada", "admin", expires_seconds=60)
    await people.add("bob")
    await people.ask(second.key)
    found = {one.id: one for one in await people.keys("ada")}
    assert found.keys() == {first.id, second.id}
    assert (found[first.id].used, found[first.id].expires) == (None, None)
    assert abs((found[second.id].used or 0) - time.time()) < 30
    assert abs((found[second.id].expires or 0) - time.time() - 60) < 30
    assert len(await people.keys()) == 3
    assert await people.names() == ["ada", "bob"]


async def test_a_removed_key_is_worthless_for_whoever_asks_next_by_another_connection(
    people: People, redis_url: str, client: redis.asyncio.Redis
) -> None:
    made = await people.add("ada")
    async with connect(redis_url) as other:
        elsewhere = People(other)
        assert (await elsewhere.ask(made.key)).person == "ada"
        await people.remove(made.id)
        with pytest.raises(Unauthorized):
            await elsewhere.ask(made.key)
    assert await people.keys("ada") == []
    assert [key async for key in client.scan_iter("telepatch:secret:*")] == []
    with pytest.raises(NotFound, match=made.id):
        await people.remove(made.id)


async def test_a_key_ends_when_its_time_is_over_and_says_since_when(people: People) -> None:
    made = await people.add("ada", expires_seconds=0.3)
    assert (await people.ask(made.key)).person == "ada"
    await asyncio.sleep(0.4)
    with pytest.raises(Unauthorized, match=r"ended at 20\d\d-\d\d-\d\d \d\d:\d\d UTC"):
        await people.ask(made.key)
    assert [one.id for one in await people.keys("ada")] == [made.id]
    with pytest.raises(NotFound, match="still good"):
        await people.rotate(made.id)


async def test_what_is_kept_of_an_ended_key_goes_after_a_month(people: People, client: redis.asyncio.Redis) -> None:
    made = await people.add("ada", expires_seconds=3600)
    month = 30 * 86400
    assert month < await client.ttl(keys.api_key(made.id)) <= month + 3600
    await client.delete(keys.api_key(made.id))
    assert await people.keys("ada") == []
    assert await client.zcard(keys.keys_of("ada")) == 0


async def test_a_rotated_key_stays_good_for_its_grace_and_no_longer(people: People) -> None:
    old = await people.add("ada", "admin")
    new = await people.rotate(old.id, grace_seconds=0.4)
    assert (new.person, new.scope) == ("ada", "admin")
    assert (await people.ask(old.key)).person == (await people.ask(new.key)).person == "ada"
    await asyncio.sleep(0.5)
    with pytest.raises(Unauthorized):
        await people.ask(old.key)
    at_once = await people.rotate(new.id)
    with pytest.raises(Unauthorized):
        await people.ask(new.key)
    assert (await people.ask(at_once.key)).scope == "admin"


async def test_a_rotated_key_lives_as_long_again_and_its_grace_does_not_prolong_the_old_one(people: People) -> None:
    old = await people.add("ada", expires_seconds=100)
    new = await people.rotate(old.id, grace_seconds=1000)
    assert abs((new.expires or 0) - time.time() - 100) < 30
    assert (await people.key(old.id)).expires == old.expires


@pytest.mark.parametrize("name", ["", "two words", "{x}", "x" * 65, "-x", "a\nb", "ada:keys"])
async def test_a_name_that_cannot_stand_in_the_queue_is_refused(people: People, name: str) -> None:
    with pytest.raises(BadArgument, match="can be named"):
        await people.add(name)
    with pytest.raises(BadArgument, match="can be named"):
        await people.limit(name, {"jobs_queued": "1"})


async def test_scopes_and_times_that_cannot_be_are_refused(people: People) -> None:
    with pytest.raises(BadArgument, match="read, submit, admin"):
        await people.add("ada", "root")  # type: ignore[arg-type]
    with pytest.raises(BadArgument, match="-1 seconds"):
        await people.add("ada", expires_seconds=-1)
    with pytest.raises(BadArgument, match="-1 seconds"):
        await people.rotate("k1", grace_seconds=-1)


async def test_that_there_were_keys_is_remembered_when_the_last_one_goes(people: People) -> None:
    assert not await people.keyed()
    made = await people.add("ada")
    await people.remove(made.id)
    assert await people.keyed()


async def test_keys_of_an_old_file_are_good_as_they_are_and_found_at_once_after_the_first_time(
    people: People, client: redis.asyncio.Redis
) -> None:
    old = {name: f"tp_old-key-of-{name}" for name in ("ada", "bob")}
    entries = [(name, "0a0b", hashlib.sha256(b"\x0a\x0b" + key.encode()).hexdigest()) for name, key in old.items()]
    assert [one.person for one in await people.adopt(entries)] == ["ada", "bob"]
    assert await people.adopt(entries) == []
    assert await people.keyed()
    with pytest.raises(Unauthorized):
        await people.ask("tp_wrong")
    assert (await people.ask(old["ada"])).person == "ada"
    assert await client.scard(keys.IMPORTED) == 1
    assert (await people.ask(old["ada"])).person == "ada"
    assert old["ada"] not in await everything(client)
    [bob] = await people.keys("bob")
    await people.remove(bob.id)
    with pytest.raises(Unauthorized):
        await people.ask(old["bob"])


async def test_a_person_may_ask_a_minutes_worth_at_once_and_then_steadily(client: redis.asyncio.Redis) -> None:
    people = People(client, Limits(requests_per_minute=120))
    ada, bob = await people.add("ada"), await people.add("bob")
    second = await people.add("ada")
    for one in [ada, second] * 60:
        await people.ask(one.key)
    with pytest.raises(RateLimited, match=r"ada may make 120 requests a minute") as refused:
        for _ in range(40):  # a slow machine may have earned some meanwhile
            await people.ask(ada.key)
    assert 0 < refused.value.retry_after <= 0.5
    assert (await people.ask(bob.key)).person == "bob"
    await asyncio.sleep(refused.value.retry_after + 0.05)
    assert (await people.ask(ada.key)).person == "ada"


async def test_a_persons_own_limits_stand_in_the_place_of_the_usual_ones_at_once(client: redis.asyncio.Redis) -> None:
    people = People(client, Limits(requests_per_minute=600, jobs_queued=5, bytes_stored=10))
    made = await people.add("ada")
    changes = {"jobs_queued": "7", "bytes_stored": "none", "models": "a, b", "requests_per_minute": "1"}
    assert await people.limit("ada", changes) == (await people.ask(made.key)).limits
    with pytest.raises(RateLimited, match="may make 1 requests"):
        await people.ask(made.key)
    found = await people.limits("ada")
    assert found == Limits(requests_per_minute=1, jobs_queued=7, bytes_stored=None, models=("a", "b"))
    assert await people.limit("ada", {"jobs_queued": None, "requests_per_minute": "none"}) == Limits(
        requests_per_minute=None, jobs_queued=5, bytes_stored=None, models=("a", "b")
    )
    assert await people.limits("bob") == people.usual


async def test_limits_are_changed_all_or_none(people: People) -> None:
    with pytest.raises(BadArgument, match="no limit 'jobs'"):
        await people.limit("ada", {"jobs_queued": "1", "jobs": "1"})
    assert await people.own_limits("ada") == {}
