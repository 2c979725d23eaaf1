"""Server-sent events as bytes come in."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event: its place in the stream, its name and its data."""

    id: str | None = None
    event: str | None = None
    data: str | None = None


async def frames(chunks: AsyncIterable[bytes]) -> AsyncIterator[Frame]:
    """Events from the pieces of a stream; comments are passed over, a frame that only sets the place comes too."""
    fields: dict[str, str] = {}
    async for line in _lines(chunks):
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


async def _lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """Whole lines; a long one may come in many pieces, which are put together once."""
    begun: list[bytes] = []
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join([*begun, line]).removesuffix(b"\r").decode(errors="replace")
            begun = []
        begun.append(rest)
