"""The version of what stands in Redis: processes that would misread it do not start.

It grows when a process of an earlier version could not work with what a newer one writes; docs/upgrading.md says what
to do then. A queue without one was written before there was a version, which is the first.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, cast

import redis.asyncio

from telepatch_broker import keys
from telepatch_protocol.errors import Unavailable

SCHEMA: Final = 1
"""What this version reads and writes."""


async def check_schema(client: redis.asyncio.Redis) -> None:
    """See that the queue is of the version that this process knows; an empty queue becomes one of it.

    Raises:
        Unavailable: it is of another; the message says which process has to change.
    """
    await client.setnx(keys.SCHEMA, str(SCHEMA))
    stored = await cast("Awaitable[bytes | None]", client.get(keys.SCHEMA))
    found = (stored or b"").decode(errors="replace")
    if found == str(SCHEMA):
        return
    if found.isdigit() and int(found) < SCHEMA:
        works = f"it has to be brought to version {SCHEMA} first: docs/upgrading.md"
    else:
        works = "install the version of Telepatch that wrote it, or a newer one, here: docs/upgrading.md"
    raise Unavailable(f"the queue is of version {found!r}, and this process knows version {SCHEMA}; {works}")
