"""Blobs of a worker that shares no directory with the gateway: written and read through the gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import quote

import httpx

from telepatch_broker.blobs import Source, check_name, chunks_of
from telepatch_protocol.errors import ConnectionFailed, NotFound, TelepatchError, Unauthorized, Unavailable

ROUTE = "/v1/worker/blobs"
"""Where the gateway offers them."""

_TIMEOUT = httpx.Timeout(60.0, connect=10.0)


class GatewayBlobs:
    """Blobs behind the gateway.

    Connections are kept for the event loop that uses it first; others, such as those of housekeeping, open their own.

    Args:
        url: of the gateway.
        token: the secret that workers share with it.
        transport: what carries the bytes; httpx's own over the network if left out.
        retry_seconds: how long a gateway that is away, as it is while it restarts, is tried again.
    """

    def __init__(
        self, url: str, token: str, *, transport: httpx.AsyncBaseTransport | None = None, retry_seconds: float = 15.0
    ) -> None:
        self._url = url.rstrip("/") + ROUTE
        self._headers = {"Authorization": f"Bearer {token}"}
        self._retry_seconds = retry_seconds
        self._home: asyncio.AbstractEventLoop | None = None
        self._kept = httpx.AsyncClient(timeout=_TIMEOUT, transport=transport)
        self._unkept = httpx.AsyncClient(
            timeout=_TIMEOUT, transport=transport, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._kept.aclose()
        await self._unkept.aclose()

    @property
    def _client(self) -> httpx.AsyncClient:
        """A connection works only in the loop that opened it."""
        loop = asyncio.get_running_loop()
        self._home = self._home or loop
        return self._kept if loop is self._home else self._unkept

    async def put(self, name: str, data: Source) -> None:
        """Write a blob."""
        check_name(name)
        if isinstance(data, bytes):
            await self._send("PUT", name, content=lambda: data)
        elif isinstance(data, Path):
            await self._send("PUT", name, content=lambda: chunks_of(data))
        else:
            # A stream can be read only once.
            await self._send("PUT", name, content=lambda: chunks_of(data), retry_seconds=0.0)

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Read bytes `start` to `stop` of a blob."""
        if stop is not None and stop <= start:
            await self.size(name)
            return
        last = "" if stop is None else stop - 1
        headers = self._headers | ({"Range": f"bytes={start}-{last}"} if start or stop is not None else {})
        try:
            async with self._client.stream("GET", self._at(name), headers=headers) as answer:
                if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return
                _check(answer, name)
                async for chunk in answer.aiter_bytes():
                    yield chunk
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    async def size(self, name: str) -> int:
        """Bytes of a blob."""
        return int((await self._send("HEAD", name)).headers["Content-Length"])

    async def delete(self, name: str) -> None:
        """Remove a blob, if it is there."""
        try:
            await self._send("DELETE", name)
        except NotFound:
            return

    async def list(self, prefix: str = "") -> AsyncIterator[str]:
        """Names of all blobs that start with `prefix`."""
        answer = await self._send("GET", None, params={"prefix": prefix})
        for name in answer.json()["names"]:
            yield check_name(name)

    def _at(self, name: str | None) -> str:
        return self._url if name is None else f"{self._url}/{quote(check_name(name))}"

    async def _send(
        self,
        method: str,
        name: str | None,
        *,
        content: Callable[[], bytes | AsyncIterator[bytes]] | None = None,
        params: dict[str, str] | None = None,
        retry_seconds: float | None = None,
    ) -> httpx.Response:
        """One exchange, tried again while the gateway is away."""
        deadline = time.monotonic() + (self._retry_seconds if retry_seconds is None else retry_seconds)
        pause = 0.1
        while True:
            try:
                body = content() if content is not None else None
                answer = await self._client.request(
                    method, self._at(name), content=body, params=params, headers=self._headers
                )
                _check(answer, name)
                return answer
            except (httpx.TransportError, Unavailable) as error:
                if time.monotonic() + pause > deadline:
                    raise error if isinstance(error, Unavailable) else self._unreachable(error) from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _unreachable(self, error: Exception) -> ConnectionFailed:
        return ConnectionFailed(f"the gateway's blob store at {self._url} cannot be reached: {error!r}")


def _check(answer: httpx.Response, name: str | None) -> None:
    if answer.is_success:
        return
    raise _refusal(answer.status_code, name)


def _refusal(status: int, name: str | None) -> TelepatchError:
    if status == httpx.codes.NOT_FOUND:
        return NotFound(f"there is no blob {name!r} behind the gateway")
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return Unauthorized("the gateway does not take this worker's token; both must be given the same one")
    return Unavailable(f"the gateway answered {status} for blob {name!r}")
