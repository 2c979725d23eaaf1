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
)  # fmt: skip
"""The scripts there are; the steps that they share are in ``common.lua`` and ``people.lua``."""


SHARED = ("common", "people")
"""What stands before each script."""


class Scripts:
    """Runs scripts by name; the server keeps them compiled, and gets them again after a restart."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        folder = files("telepatch_broker") / "scripts"
        shared = "".join((folder / f"{name}.lua").read_text() for name in SHARED)
        self._scripts: dict[str, AsyncScript] = {
            name: client.register_script(shared + (folder / f"{name}.lua").read_text()) for name in NAMES
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
