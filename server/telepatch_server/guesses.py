"""Wrong keys: whoever shows many of them waits, and takes no more of this gateway's time than a few looks a second.

A key has 256 random bits, so nobody finds one by guessing; but every guess costs this gateway and the queue a look.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from telepatch_broker.people import Caller
from telepatch_protocol.errors import RateLimited, Unauthorized
from telepatch_protocol.newest import Newest

FREE: Final = 20
"""Wrong keys that an address may show before it waits."""

PAUSE_SECONDS: Final = 0.5
"""How long each further one waits, one after the other."""

WAITING: Final = 16
"""How many of one address may wait at a time."""

FORGOTTEN_SECONDS: Final = 60.0
"""How long after its last wrong key an address begins anew."""

_ADDRESSES: Final = 10_000
_GOOD: Final = 10_000


@dataclass
class _Shown:
    """The wrong keys of one address."""

    wrong: int = 0
    last: float = 0.0
    waiting: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Guesses:
    """Keeps count of wrong keys.

    A key that was good before is never kept waiting: wrong ones from its address do not lock its owner out.
    """

    def __init__(self) -> None:
        self._shown: OrderedDict[str, _Shown] = OrderedDict()
        self._secret = secrets.token_bytes(32)
        self._good: Newest[bytes, bool] = Newest(_GOOD)

    async def ask(self, key: str, address: str, ask: Callable[[str], Awaitable[Caller]]) -> Caller:
        """Whose key this is.

        Args:
            key: that somebody shows.
            address: where they are.
            ask: says whose it is.

        Raises:
            Unauthorized: nobody's.
            RateLimited: too many wrong keys from this address are being looked at, or its owner asks too often.
        """
        digest = hmac.digest(self._secret, key.encode(), "sha256")  # not the key itself
        shown = self._of(neighbourhood(address))
        if not self._good.get(digest) and shown.wrong >= FREE:
            await self._turn(shown)
        try:
            found = await ask(key)
        except Unauthorized:
            self._good.drop(digest)
            shown.wrong, shown.last = shown.wrong + 1, time.monotonic()
            raise
        self._good.put(digest, True)
        return found

    async def _turn(self, shown: _Shown) -> None:
        """Wait for it, behind others of this address."""
        if shown.waiting >= WAITING:
            raise RateLimited("too many unknown API keys came from this address; try again in a minute").after(60.0)
        shown.waiting += 1
        try:
            async with shown.turn:
                await asyncio.sleep(PAUSE_SECONDS)
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
