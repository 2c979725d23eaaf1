"""Whether a gateway asks for keys."""

from __future__ import annotations

import time
from typing import Final

from telepatch_broker.people import People
from telepatch_protocol.errors import BadArgument
from telepatch_server.settings import Settings

_LOOK_SECONDS: Final = 1.0


class Door:
    """A gateway on loopback is open to everybody there until there is a key, and never again after that.

    Args:
        people: who know of keys.
        settings: where the gateway listens.
    """

    def __init__(self, people: People, settings: Settings) -> None:
        self._people = people
        self._open = settings.loopback
        self._looked = float("-inf")

    async def open(self) -> bool:
        """Whether everybody is let in; a first key is noticed within a second."""
        if self._open and time.monotonic() - self._looked > _LOOK_SECONDS:
            self._open = not await self._people.keyed()
            self._looked = time.monotonic()
        return self._open


async def refuse_keyless(people: People, settings: Settings) -> None:
    """Keep a gateway from starting that everybody could use.

    Raises:
        BadArgument: others can reach it, and there are no keys to tell them apart.
    """
    if not settings.loopback and not await people.keyed():
        raise BadArgument(
            f"the gateway listens on {settings.host}, where others can reach it, and nobody has a key: make one with "
            "'telepatch keys add NAME', or take over an old keys file with 'telepatch keys import FILE' (both find the "
            "queue by --redis-url or TELEPATCH_REDIS_URL, or that of 'telepatch up' by --home), or listen on 127.0.0.1"
        )
