"""The Lua scripts, each one atomic step of a job's life."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import redis.asyncio
from redis.commands.core import AsyncScript

NAMES = (
    "submit", "take", "renew", "complete", "fail", "cancel", "reclaim", "requeue", "note", "checkpoint", "slice",
    "discard", "expire", "upload_begin", "upload_part", "upload_finish", "upload_delete",
    "edit_put", "ask", "key_add", "key_rotate", "key_remove", "key_adopt", "queues",
    "quarantine_drop", "reserve",
)  # fmt: skip
"""The scripts there are; the steps that they share are in ``common.lua`` and ``people.lua``."""


SHARED = ("common", "people")
"""What stands before each script."""

_NEW = {"submit", "note", "edit_put", "upload_begin", "upload_part", "upload_finish", "key_add", "key_adopt"}
_READ = {"ask", "queues"}

EVEN_WHEN_FULL = frozenset(NAMES) - _NEW - _READ
"""Scripts that bring what was accepted to its end, or make room: a server that is full must not refuse these.

Over its ``maxmemory`` it refuses the first command of a script that may take memory, unless another one that writes
came before. So these begin with one that never takes any.
"""

_BEGINNING = "redis.call('DEL', 'telepatch:nothing')\n"


class Scripts:
    """Runs scripts by name; the server keeps them compiled, and gets them again after a restart."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        folder = files("telepatch_broker") / "scripts"
        shared = "".join((folder / f"{name}.lua").read_text() for name in SHARED)
        self._scripts: dict[str, AsyncScript] = {
            name: client.register_script(shared + _first(name) + (folder / f"{name}.lua").read_text()) for name in NAMES
        }

    async def __call__(self, name: str, *arguments: str | bytes | float) -> Any:
        """Run one script to its end."""
        return await self._scripts[name](args=arguments)

    async def each(self, name: str, rows: Sequence[Sequence[str | bytes | float]]) -> list[Any]:
        """Run one script for each row of arguments, each a step of its own, in one exchange with the server."""
        if len(rows) == 1:
            return [await self(name, *rows[0])]
        pipeline = self._client.pipeline(transaction=False)
        for row in rows:
            await self._scripts[name](args=row, client=pipeline)
        found: list[Any] = await pipeline.execute()
        return found


def _first(name: str) -> str:
    return _BEGINNING if name in EVEN_WHEN_FULL else ""
