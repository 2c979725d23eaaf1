"""People and their API keys, in the state that all gateways share.

A key is 256 random bits, so one round of SHA-256 is enough to know it again: there is nothing to guess. It is shown
once and kept nowhere. Each request asks anew, in one step, so a key that was removed is worthless at once, on every
gateway.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, cast, get_args

import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.connection import now_ms
from telepatch_broker.limits import LIMITS, Limits, limit_of
from telepatch_broker.scripting import Scripts
from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import BadArgument, NotFound, RateLimited, Unauthorized

MARK: Final = "tp_"
"""Keys begin with this, so that one that leaked can be searched for."""

Scope = Literal["read", "submit", "admin"]
"""What a key is good for: looking at one's own jobs and results; sending jobs too; and all of ``/v1/admin``."""

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
"""From the least to the most: each is good for all that those before it are good for."""

LOCAL: Final = "local"
"""Whoever uses a service without keys; a key of this name has what was done before there were any."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_FIELDS: Final = ("person", "scope", "created", "expires", "used")


class KeyInfo(Frozen):
    """What may be known of a key; times are Unix times in seconds.

    Attributes:
        id: names it, and opens nothing.
        person: whose it is.
        scope: what it is good for.
        created: when it was made.
        expires: when it ends or has ended; None for one that does not.
        used: when it was used last, to the minute; None for one that never was.
    """

    id: str
    person: str
    scope: Scope
    created: float
    expires: float | None = None
    used: float | None = None


class NewKey(KeyInfo):
    """A key that was just made, with the key itself, this once."""

    key: str


@dataclass(frozen=True)
class Caller:
    """Who asks, with which key, and how much they may have."""

    person: str
    scope: Scope
    limits: Limits
    key: str | None = None


class People:
    """Everybody who may use the service.

    Args:
        client: from `telepatch_broker.connection.connect`.
        usual: the limits of those who have no limits of their own.

    Example:
        >>> people = People(connect("redis://localhost"))
        >>> made = await people.add("ada")
        >>> (await people.ask(made.key)).person
        'ada'
    """

    def __init__(self, client: redis.asyncio.Redis, usual: Limits | None = None) -> None:
        self._redis = client
        self._run = Scripts(client)
        self.usual = usual or Limits()

    async def keyed(self) -> bool:
        """Whether there is, or ever was, a key."""
        return bool(await self._redis.exists(keys.KEYED))

    async def ask(self, key: str) -> Caller:
        """Whose key this is.

        Raises:
            Unauthorized: it is not known, any more or at all.
            RateLimited: its owner has asked too often; the error says when to come back.
        """
        found = await self._asked(key)
        if found[0] == b"unknown" and int(found[1]) and await self._adopted(key):
            found = await self._asked(key)
        if found[0] == b"expired":
            raise Unauthorized(
                f"this API key ended at {_shown(int(found[1]))}; whoever runs the service can make another"
            )
        if found[0] == b"unknown":
            raise Unauthorized("this API key is not known here; it may have been removed")
        _, id, person, scope, wait, own = found
        limits = self.usual.but(_texts(own))
        if wait:
            raise RateLimited(
                f"{person.decode()} may make {limits.requests_per_minute:,} requests a minute, and has made them; "
                f"this one can be made again in {wait / 1000:.1f} s"
            ).after(wait / 1000)
        return Caller(person.decode(), cast("Scope", scope.decode()), limits, id.decode())

    async def still(self, caller: Caller) -> bool:
        """Whether the key of somebody who asked a while ago is good yet; does not count as a request."""
        if caller.key is None:
            return True
        [known] = await self._read([caller.key])
        return known is not None and (known.expires is None or known.expires * 1000 > await now_ms(self._redis))

    async def add(self, person: str, scope: Scope = "submit", *, expires_seconds: float | None = None) -> NewKey:
        """Make a key.

        Args:
            person: whose it is; may have several.
            scope: what it is good for.
            expires_seconds: how long; None is for ever.

        Raises:
            BadArgument: a name, a scope or a time that cannot be.
        """
        check_person(person)
        if scope not in SCOPES:
            raise BadArgument(f"there is no scope {scope!r}; there are: {', '.join(SCOPES)}")
        if expires_seconds is not None and expires_seconds <= 0:
            raise BadArgument(f"a key cannot end after {expires_seconds:g} seconds; more than 0 can be")
        made, id = _new_key(), _new_id()
        ends = "" if expires_seconds is None else await now_ms(self._redis) + round(expires_seconds * 1000)
        await self._run("key_add", id, person, scope, digest_of(made), ends)
        return NewKey(key=made, **(await self.key(id)).model_dump())

    async def rotate(self, id: str, *, grace_seconds: float = 0.0) -> NewKey:
        """Make a key in the place of another, for the same person and as good.

        Args:
            id: of the old one.
            grace_seconds: how much longer the old one is good; 0 is not at all.

        Raises:
            NotFound: there is no such key, or it has ended.
        """
        if grace_seconds < 0:
            raise BadArgument(f"a key cannot stay good for {grace_seconds:g} seconds; 0 or more can be")
        made, new = _new_key(), _new_id()
        if not await self._run("key_rotate", id, new, digest_of(made), round(grace_seconds * 1000)):
            raise NotFound(f"there is no key {id[:80]} that is still good")
        return NewKey(key=made, **(await self.key(new)).model_dump())

    async def remove(self, id: str) -> KeyInfo:
        """Make a key worthless, at once and on every gateway.

        Raises:
            NotFound: there is no such key.
        """
        known = await self.key(id)
        await self._run("key_remove", id)
        return known

    async def key(self, id: str) -> KeyInfo:
        """What may be known of a key.

        Raises:
            NotFound: there is no such key.
        """
        [found] = await self._read([id])
        if found is None:
            raise NotFound(f"there is no key {id[:80]}; GET /v1/admin/keys and 'telepatch keys list' show all")
        return found

    async def keys(self, person: str | None = None) -> list[KeyInfo]:
        """The keys of a person, or of everybody; those that ended lately are among them."""
        found: list[KeyInfo] = []
        for name in [person] if person is not None else await self.names():
            ids = cast("list[bytes]", await self._redis.zrange(keys.keys_of(name), 0, -1))
            known = await self._read([id.decode() for id in ids])
            gone = [id for id, one in zip(ids, known, strict=True) if one is None]
            if gone:
                await self._redis.zrem(keys.keys_of(name), *gone)
            found += [one for one in known if one is not None]
        return found

    async def names(self) -> list[str]:
        """Everybody who has or had a key, has limits of their own, or has used anything."""
        found = await cast("Awaitable[set[bytes]]", self._redis.smembers(keys.PEOPLE))
        return sorted(name.decode() for name in found)

    async def own_limits(self, person: str) -> dict[str, str]:
        """The limits that this person has in place of the usual ones, as they are written."""
        found = await cast("Awaitable[dict[bytes, bytes]]", self._redis.hgetall(keys.limits_of(person)))
        return {name.decode(): text.decode() for name, text in found.items() if name.decode() in LIMITS}

    async def limits(self, person: str) -> Limits:
        """What a person may have."""
        return self.usual.but(await self.own_limits(person))

    async def limit(self, person: str, changes: Mapping[str, str | None]) -> Limits:
        """Give a person limits of their own; None gives back the usual one.

        Raises:
            BadArgument: no such limit, or one that cannot be; nothing has changed.
        """
        check_person(person)
        wanted = {name: text for name, text in changes.items() if text is not None}
        for name in changes:
            limit_of(name, wanted.get(name, "none"))
        pipeline = self._redis.pipeline(transaction=True)
        for name, text in wanted.items():
            pipeline.hset(keys.limits_of(person), name, text)
        if back := [name for name, text in changes.items() if text is None]:
            pipeline.hdel(keys.limits_of(person), *back)
        pipeline.sadd(keys.PEOPLE, person)
        await pipeline.execute()
        return await self.limits(person)

    async def adopt(self, old: Iterable[tuple[str, str, str]]) -> list[KeyInfo]:
        """Take over keys of an old keys file: person, salt and salted hash of each.

        Returns:
            Those that were not taken over before.
        """
        taken: list[KeyInfo] = []
        for person, salt, salted in old:
            check_person(person)
            id = "k" + hashlib.sha256(f"{salt} {salted}".encode()).hexdigest()[:12]
            if await self._run("key_add", id, person, "submit", "", "", salt, salted):
                taken.append(await self.key(id))
        return taken

    async def _asked(self, key: str) -> list[Any]:
        most = self.usual.requests_per_minute
        found: list[Any] = await self._run("ask", digest_of(key), "" if most is None else most)
        return found

    async def _adopted(self, key: str) -> bool:
        """Whether this is a key of an old file that is shown for the first time; from then on it is found at once."""
        ids = await cast("Awaitable[set[bytes]]", self._redis.smembers(keys.IMPORTED))
        pipeline = self._redis.pipeline(transaction=False)
        for id in ids:
            pipeline.hmget(keys.api_key(id.decode()), ["salt", "hash"])
        for id, (salt, hashed) in zip(ids, await pipeline.execute(), strict=True):
            if salt and hashed and hmac.compare_digest(_salted(salt.decode(), key), hashed.decode()):
                return bool(await self._run("key_adopt", id.decode(), digest_of(key)))
        return False

    async def _read(self, ids: list[str]) -> list[KeyInfo | None]:
        pipeline = self._redis.pipeline(transaction=False)
        for id in ids:
            pipeline.hmget(keys.api_key(id), list(_FIELDS))
        return [_info(id, row) for id, row in zip(ids, await pipeline.execute(), strict=True)]


def check_person(name: str) -> str:
    """The name of a person, if it can be one.

    Raises:
        BadArgument: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise BadArgument(f"nobody can be named {name[:80]!r}; 1 to 64 of A-Z a-z 0-9 . _ @ - can be")
    return name


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def _salted(salt: str, key: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + key.encode()).hexdigest()


def _new_key() -> str:
    return MARK + secrets.token_urlsafe(32)


def _new_id() -> str:
    return "k" + secrets.token_hex(6)


def _info(id: str, row: list[bytes | None]) -> KeyInfo | None:
    person, scope, created, expires, used = row
    if person is None or scope is None:
        return None
    return KeyInfo(
        id=id,
        person=person.decode(),
        scope=cast("Scope", scope.decode()),
        created=int(created or 0) / 1000,
        expires=None if expires is None else int(expires) / 1000,
        used=None if used is None else int(used) / 1000,
    )


def _texts(flat: list[bytes]) -> dict[str, str]:
    return {name.decode(): text.decode() for name, text in zip(flat[::2], flat[1::2], strict=True)}


def _shown(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
