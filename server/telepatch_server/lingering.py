"""Answers that come before a request has been read to its end, and that are to arrive all the same."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS: Final = 5.0
BYTES: Final = 256 * 2**20
"""How long, and for how many bytes, what is sent behind an answer is passed over."""


class Lingering:
    """Tells the answer at once and passes over the rest of the body, for a while, before the connection is closed.

    A connection that is closed while bytes still come takes with it an answer that has not been read yet: whoever sends
    first and reads then, as balancers and most clients do, would hear of a broken line in place of a refusal.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        ended = False

        async def read() -> Message:
            nonlocal ended
            message = await receive()
            ended = ended or message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def answer(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not last or ended:
                await send(message)
                return
            await send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(SECONDS):
                    passed = 0
                    while not ended and passed < BYTES:
                        passed += len((await read()).get("body", b""))
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, read, answer)


def _has_body(scope: Scope) -> bool:
    """Whether something follows the head of a request."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )
