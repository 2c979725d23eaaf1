"""Edits: fragments of graphs that a person stores under a name and applies later; nobody's are there for others.

What is kept is the document. Jobs hold their graphs with all edits in place, so replacing or deleting one changes none
of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Iterable
from typing import cast

import redis.asyncio

from telepatch_broker import keys
from telepatch_broker.scripting import Scripts
from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import NotFound, PayloadTooLarge

MAX_EDITS = 200
"""How many edits a person may have."""


class StoredEdit(Frozen):
    """An edit as it is kept.

    Attributes:
        document: the fragment, as JSON.
        changed: Unix time at which it was stored last.
        version: sha256 of the document.
    """

    document: str
    changed: float
    version: str


class Edits:
    """The edits of everybody.

    Args:
        client: from `telepatch_broker.connection.connect`.

    Example:
        >>> edits = Edits(connect("redis://localhost"))
        >>> await edits.put("ada", "steer", fragment_json)
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        self._run = Scripts(client)

    async def put(self, person: str, name: str, document: str) -> tuple[StoredEdit, bool]:
        """Store an edit, in place of another of that name; says whether there was none.

        Raises:
            PayloadTooLarge: the person has too many.
        """
        keys.check_name("person", person)
        version = hashlib.sha256(document.encode()).hexdigest()
        outcome = await self._run("edit_put", person, name, document, version, MAX_EDITS)
        if outcome == -1:
            raise PayloadTooLarge(f"you have {MAX_EDITS} edits, and may have no more; delete some")
        return await self.get(person, name), outcome == 1

    async def get(self, person: str, name: str) -> StoredEdit:
        """One edit.

        Raises:
            NotFound: `person` has none of that name.
        """
        found = (await self.some(person, [name])).get(name)
        if found is None:
            raise NotFound(f"there is no edit '{name}' among yours; GET /v1/edits lists them")
        return found

    async def some(self, person: str, names: Iterable[str]) -> dict[str, StoredEdit]:
        """Those of some names that there are."""
        wanted = list(names)
        if not wanted:
            return {}
        found = await cast("Awaitable[list[bytes | None]]", self._redis.hmget(keys.edits_of(person), wanted))
        return {name: _read(text) for name, text in zip(wanted, found, strict=True) if text is not None}

    async def all_of(self, person: str) -> dict[str, StoredEdit]:
        """All edits of a person, by name."""
        found = await cast("Awaitable[dict[bytes, bytes]]", self._redis.hgetall(keys.edits_of(person)))
        return {name.decode(): _read(text) for name, text in sorted(found.items())}

    async def delete(self, person: str, name: str) -> None:
        """Forget an edit.

        Raises:
            NotFound: `person` has none of that name.
        """
        if not await self._redis.hdel(keys.edits_of(person), name):
            raise NotFound(f"there is no edit '{name}' among yours")


def _read(text: bytes) -> StoredEdit:
    """What the script wrote: when, which version, and the document, with spaces between."""
    changed, version, document = text.decode().split(" ", 2)
    return StoredEdit(document=document, changed=int(changed) / 1000, version=version)
