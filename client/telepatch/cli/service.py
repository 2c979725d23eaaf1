"""How the command line asks a gateway: one request after the other, over the client's own transport."""

from __future__ import annotations

import asyncio
import json
from types import TracebackType
from typing import Annotated, Any, Final, Self
from urllib.parse import urlencode

import typer

from telepatch.cli import exits
from telepatch.settings import Settings
from telepatch.transport import Transport
from telepatch_protocol.errors import BadArgument

TIMEOUT_S: Final = 60.0

Url = Annotated[
    str | None,
    typer.Option(help="The gateway; else TELEPATCH_URL, else http://127.0.0.1:8000.", show_default=False),
]
Key = Annotated[str | None, typer.Option(help="Your API key; else TELEPATCH_API_KEY.", show_default=False)]


class Service:
    """A gateway, and whoever's key it is asked with.

    Args:
        url: where it listens; None takes the environment's.
        key: API key; None takes the environment's. A gateway on loopback may need none.

    Raises:
        typer.Exit: the address is none; that has been said.
    """

    def __init__(self, url: str | None, key: str | None) -> None:
        try:
            settings = Settings.from_environment(url=url, api_key=key)
        except BadArgument as error:
            typer.echo(f"telepatch: {error}", err=True)
            raise typer.Exit(exits.USAGE) from None
        self.url = settings.url.rstrip("/")
        self._transport = Transport(settings)
        self._loop = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._loop.run(self._transport.close())
        self._loop.close()

    def ask(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """Send one request, and read the answer as JSON.

        Args:
            method: of HTTP.
            path: from the gateway's root.
            body: sent as JSON.
            query: what stands behind the question mark.

        Raises:
            ConnectionFailed: nobody answers there.
            TelepatchError: the gateway refused; of the class that it named.
        """
        return json.loads(self.fetch(method, path, body, **query))

    def fetch(self, method: str, path: str, body: object = None, **query: object) -> bytes:
        """As `ask`, for answers that are not JSON."""
        target = f"{path}?{urlencode(query)}" if query else path
        return self._loop.run(self._fetch(method, target, None if body is None else json.dumps(body).encode()))

    async def _fetch(self, method: str, target: str, content: bytes | None) -> bytes:
        async with self._transport.exchange(method, target, content=content, timeout=TIMEOUT_S) as answer:
            return await answer.aread()
