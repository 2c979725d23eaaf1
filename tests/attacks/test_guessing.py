"""Keys that are guessed, stolen by halves, or sent twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis
from tests.attacks.raw import Line

from telepatch_broker.limits import Limits
from telepatch_broker.people import Caller
from telepatch_protocol.errors import RateLimited, Unauthorized
from telepatch_server import guesses
from telepatch_server.guesses import FREE, WAITING, Guesses, neighbourhood


class Ring:
    """Good keys of five people, and how many were looked at."""

    def __init__(self) -> None:
        self.looked = 0

    async def ask(self, key: str) -> Caller:
        self.looked += 1
        if not key.startswith("good-"):
            raise Unauthorized("this API key is not known here")
        return Caller(key.removeprefix("good-"), "submit", Limits(), "id")


@pytest.fixture
def ring() -> Ring:
    return Ring()


async def whose(watch: Guesses, ring: Ring, key: str, address: str) -> str | None:
    try:
        return (await watch.ask(key, address, ring.ask)).person
    except Unauthorized:
        return None


def near(key: str) -> list[str]:
    """Keys that are almost a good one."""
    flipped = key[:-1] + ("A" if key[-1] != "A" else "B")
    return [
        flipped,
        key[:-1],
        key + "A",
        key.upper(),
        key.lower(),
        key[3:],
        f"tp_{key}",
        "",
        "tp_",
        key + "\x00",
        "*",
        "%",
    ]


def test_a_key_that_is_almost_good_is_not(people: dict[str, httpx.Client]) -> None:
    key = people["ada"].headers["authorization"].partition(" ")[2]
    for wrong in near(key):
        with closing(Line(people["nobody"].base_url.host, people["nobody"].base_url.port or 80)) as wire:
            answer = wire.ask("GET", "/v1/me", f"Authorization: Bearer {wrong}")
        assert answer.status == (400 if "\x00" in wrong else 401)
        assert answer.status == 400 or b"www-authenticate: bearer" in answer.head.lower()


def test_no_answer_tells_how_wrong_a_key_is(people: dict[str, httpx.Client]) -> None:
    key = people["ada"].headers["authorization"].partition(" ")[2]
    wrong = [one for one in near(key) if one.strip() and "\x00" not in one]
    told = {people["nobody"].get("/v1/me", headers={"Authorization": f"Bearer {one}"}).text for one in wrong}
    assert len(told) == 1


def test_the_queue_holds_nothing_to_log_in_with(people: dict[str, httpx.Client], redis_url: str) -> None:
    key = people["ada"].headers["authorization"].partition(" ")[2]
    with closing(redis.Redis.from_url(redis_url)) as server:
        for name in server.keys("*"):
            kind = server.type(name)
            held = server.dump(name) if kind != b"hash" else repr(server.hgetall(name)).encode()
            assert key.encode() not in name + held
            wrong = name.decode(errors="replace").rpartition(":")[2]
            answer = people["nobody"].get("/v1/me", headers={"Authorization": f"Bearer {quote(wrong)}"})
            assert answer.status_code in (401, 429)


async def test_whoever_shows_many_wrong_keys_waits_and_nobody_else(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "PAUSE_SECONDS", 0.05)
    watch = Guesses()
    assert await whose(watch, ring, "good-p0", "10.0.0.1") == "p0"
    for at in range(FREE):
        assert await whose(watch, ring, f"tp_{at}", "10.0.0.1") is None
    ring.looked = 0
    wrong = [asyncio.create_task(whose(watch, ring, f"tp_x{at}", "10.0.0.1")) for at in range(WAITING + 30)]
    await asyncio.sleep(0)
    assert await whose(watch, ring, "good-p0", "10.0.0.1") == "p0", "a key that was good before never waits"
    assert await whose(watch, ring, "good-p1", "10.0.0.2") == "p1", "nor does anybody elsewhere"
    assert ring.looked == 2
    answers = await asyncio.gather(*wrong, return_exceptions=True)
    assert sum(isinstance(one, RateLimited) for one in answers) == 30
    assert ring.looked == WAITING + 2
    assert await whose(watch, ring, "good-p2", "10.0.0.1") == "p2", "a good key that is new here is found, only later"


async def test_a_key_that_was_good_and_is_removed_waits_like_any_wrong_one(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Guesses()
    assert await whose(watch, ring, "good-p0", "10.0.0.1") == "p0"
    monkeypatch.setattr(Ring, "ask", refuse)
    for _ in range(FREE + 1):
        assert await whose(watch, ring, "good-p0", "10.0.0.9") is None
    waiting = asyncio.create_task(whose(watch, ring, "good-p0", "10.0.0.9"))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    waiting.cancel()


async def refuse(self: Ring, key: str) -> Caller:
    raise Unauthorized("this API key is not known here")


async def test_addresses_are_forgotten_and_never_many(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "_ADDRESSES", 100)
    watch = Guesses()
    for at in range(300):
        await whose(watch, ring, "tp_wrong", f"10.0.{at // 256}.{at % 256}")
    assert len(watch._shown) == 100
    for _ in range(FREE):
        await whose(watch, ring, "tp_wrong", "10.9.9.9")
    monkeypatch.setattr(guesses, "FORGOTTEN_SECONDS", 0.0)
    begun = time.monotonic()
    await whose(watch, ring, "tp_wrong", "10.9.9.9")
    assert time.monotonic() - begun < guesses.PAUSE_SECONDS


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "", True),
    ],
)
def test_an_address_stands_for_all_that_its_owner_has(one: str, other: str, same: bool) -> None:
    assert (neighbourhood(one) == neighbourhood(other)) is same


def test_the_gateway_slows_down_whoever_guesses(
    people: dict[str, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesses, "PAUSE_SECONDS", 0.2)
    assert people["ada"].get("/v1/me").status_code == 200
    wrong = {"Authorization": "Bearer tp_wrong"}
    for _ in range(FREE):
        assert people["nobody"].get("/v1/me", headers=wrong).status_code == 401
    begun = time.monotonic()
    assert people["nobody"].get("/v1/me", headers=wrong).status_code == 401
    assert time.monotonic() - begun >= 0.2
    assert people["ada"].get("/v1/me").status_code == 200


def test_two_keys_in_one_request_are_none(people: dict[str, httpx.Client]) -> None:
    """A proxy that looks at the first one and a gateway that looks at the last would not agree who is asking."""
    base = people["nobody"].base_url
    ada, bob = (people[name].headers["authorization"] for name in ("ada", "bob"))
    for pair in ((ada, bob), (ada, "Bearer tp_wrong"), ("Bearer tp_wrong", ada), (ada, ada)):
        wire = Line(base.host, base.port or 80)
        answer = wire.ask("GET", "/v1/me", *(f"Authorization: {one}" for one in pair))
        wire.close()
        assert answer.status == 401


@pytest.mark.parametrize("scheme", ["Basic", "bearer", "BEARER", "Bearer:", "Token", "", "Negotiate"])
def test_only_one_scheme_is_known(people: dict[str, httpx.Client], scheme: str) -> None:
    key = people["ada"].headers["authorization"].partition(" ")[2]
    status = people["nobody"].get("/v1/me", headers={"Authorization": f"{scheme} {key}".strip()}).status_code
    assert status == (200 if scheme.lower() == "bearer" else 401)


@pytest.mark.parametrize("place", ["/v1/me?api_key={}", "/v1/me?token={}", "/v1/me?access_token={}"])
def test_a_key_in_an_address_opens_nothing(people: dict[str, httpx.Client], place: str) -> None:
    """Addresses stand in logs and histories."""
    key = people["ada"].headers["authorization"].partition(" ")[2]
    assert people["nobody"].get(place.format(key)).status_code in (401, 422)
    assert people["nobody"].get("/v1/me", headers={"Cookie": f"key={key}", "X-API-Key": key}).status_code == 401


def test_a_person_s_key_is_no_worker_s_and_the_other_way_round(
    serve: Callable[..., httpx.Client], settings: Any, published: object, tmp_path: Path, key: Callable[..., str]
) -> None:
    token, own = "a-token-of-some-length", key("ada")
    http = serve(settings.model_copy(update={"worker_token": token, "blobs": tmp_path / "blobs"}))

    def status(path: str, secret: str) -> int:
        return http.get(path, headers={"Authorization": f"Bearer {secret}"}).status_code

    assert status("/v1/worker/blobs", token) == 200
    assert status("/v1/worker/blobs", own) == 401
    assert status("/v1/worker/blobs", token[:-1]) == 401
    assert status("/v1/me", own) == 200
    assert status("/v1/me", token) == 401
