"""Server-sent events as lines of text come in."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event: its place in the stream, its name and its data."""

    id: str | None = None
    event: str | None = None
    data: str | None = None


async def frames(lines: AsyncIterable[str]) -> AsyncIterator[Frame]:
    """Events from the lines of a stream; comments are passed over, a frame that only sets the place comes too."""
    fields: dict[str, str] = {}
    async for line in lines:
        if not line:
            if fields:
                yield Frame(fields.get("id"), fields.get("event"), fields.get("data"))
            fields = {}
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data" and "data" in fields:
            value = f"{fields['data']}\n{value}"
        if name:
            fields[name] = value
