"""Wrong keys: whoever shows many of them waits, and takes no more of this gateway's time than a few looks a second.

A key has 256 random bits, so nobody finds one by guessing; but every guess is held against every key that there is.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from telepatch_protocol.errors import RateLimited
from telepatch_server.keys import KeyRing

FREE: Final = 20
"""Wrong keys that an address may show before it waits."""

PAUSE_SECONDS: Final = 0.5
"""How long each further one waits, one after the other."""

WAITING: Final = 16
"""How many of one address may wait at a time."""

FORGOTTEN_SECONDS: Final = 60.0
"""How long after its last wrong key an address begins anew."""

_ADDRESSES: Final = 10_000


@dataclass
class _Shown:
    """The wrong keys of one address."""

    wrong: int = 0
    last: float = 0.0
    waiting: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Guesses:
    """Looks at keys, and keeps count of the wrong ones.

    A key that was good before is never kept waiting: wrong ones from its address do not lock its owner out.
    """

    def __init__(self) -> None:
        self._shown: OrderedDict[str, _Shown] = OrderedDict()

    async def person(self, keys: KeyRing, key: str, address: str) -> str | None:
        """Whose key this is, or None.

        Raises:
            RateLimited: too many keys from this address are being looked at.
        """
        name = keys.known(key)
        if name is not None:
            return name
        shown = self._of(neighbourhood(address))
        if shown.wrong < FREE:
            name = keys.person(key)
        elif shown.waiting >= WAITING:
            raise RateLimited("too many unknown API keys came from this address; try again in a minute")
        else:
            name = await self._in_turn(keys, key, shown)
        if name is None:
            shown.wrong, shown.last = shown.wrong + 1, time.monotonic()
        return name

    async def _in_turn(self, keys: KeyRing, key: str, shown: _Shown) -> str | None:
        shown.waiting += 1
        try:
            async with shown.turn:
                await asyncio.sleep(PAUSE_SECONDS)
                return keys.person(key)
        finally:
            shown.waiting -= 1

    def _of(self, address: str) -> _Shown:
        """What an address has shown of late; those that showed nothing for longest are forgotten first."""
        found = self._shown.pop(address, None)
        if found is None or (not found.waiting and time.monotonic() - found.last > FORGOTTEN_SECONDS):
            found = _Shown()
        self._shown[address] = found
        if len(self._shown) > _ADDRESSES:
            self._shown.popitem(last=False)
        return found


def neighbourhood(address: str) -> str:
    """Whom an address stands for: of IPv6 everybody has very many, the first 64 bits of which are the same.

    Example:
        >>> neighbourhood("2001:db8::1:2")
        '2001:db8::/64'
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(found) if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))
