"""The Lua scripts, each one atomic step of a job's life."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import redis.asyncio
from redis.commands.core import AsyncScript

NAMES = (
    "submit", "take", "renew", "complete", "fail", "cancel", "reclaim", "requeue", "note", "checkpoint", "slice",
    "discard", "expire", "upload_begin", "upload_part", "upload_finish", "upload_delete",
    "edit_put",
)  # fmt: skip
"""The scripts there are; the steps that they share are in ``common.lua``."""


class Scripts:
    """Runs scripts by name; the server keeps them compiled, and gets them again after a restart."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        folder = files("telepatch_broker") / "scripts"
        common = (folder / "common.lua").read_text()
        self._scripts: dict[str, AsyncScript] = {
            name: client.register_script(common + (folder / f"{name}.lua").read_text()) for name in NAMES
        }

    async def __call__(self, name: str, *arguments: str | bytes | float) -> Any:
        """Run one script to its end."""
        return await self._scripts[name](args=arguments)
