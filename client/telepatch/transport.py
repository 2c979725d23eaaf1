"""The one place where the client meets HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from telepatch.settings import Settings
from telepatch_protocol.errors import (
    ConnectionFailed,
    ErrorRecord,
    RateLimited,
    ServiceError,
    TelepatchError,
    Unavailable,
    from_record,
)

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

RETRIED = (ConnectionFailed, Unavailable)
"""Errors after which the same request may be made again."""

LONGEST_WAIT_S = 300.0
"""The longest that a request waits for a limit to let it pass; where the service says longer, the limit is raised."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0

_FIELDS = tuple(ErrorRecord.model_fields)


class SlowedDown(UserWarning):
    """A limit of the service is met: what was asked waits until it may pass, and goes on."""


class Transport:
    """Requests to one gateway, in the name of one person.

    Args:
        settings: where it is and who asks.
        inner: what carries the bytes; httpx's own over the network if left out.
    """

    def __init__(self, settings: Settings, inner: httpx.AsyncBaseTransport | None = None) -> None:
        self.settings = settings
        self._inner = inner
        self._client: httpx.AsyncClient | None = None
        self._slowed = False

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        files: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = 30.0,
    ) -> AsyncIterator[httpx.Response]:
        """Make one request and yield its answer, whose body has not been read yet; one that came too often waits.

        Args:
            method: of HTTP.
            path: on the gateway, from the slash on.
            content: a JSON body.
            files: parts of a multipart body, as httpx takes them.
            headers: beside the key.
            timeout: seconds without a byte after which the gateway counts as gone; None never.

        Raises:
            ServiceError: no answer.
            TelepatchError: the gateway's own refusal, as its class.
        """
        import httpx

        client = self._opened(httpx)
        sent = {"content-type": "application/json", **(headers or {})} if content is not None else dict(headers or {})
        how: dict[str, Any] = {"content": content, "files": files, "headers": sent}
        how["timeout"] = httpx.Timeout(timeout, connect=10.0)
        try:
            while True:
                async with client.stream(method, path, **how) as response:
                    if response.status_code < 400 or _is_answer(response):
                        yield response
                        return
                    error = _refusal(response, await response.aread(), self.settings.url)
                if not isinstance(error, RateLimited) or error.retry_after > LONGEST_WAIT_S:
                    raise error
                await self.slow_down(error, error.retry_after)
        except httpx.ConnectError:
            raise ConnectionFailed(
                f"no gateway answers at {self.settings.url}; start one with 'telepatch up', or give the right address "
                "as connect(url) or in TELEPATCH_URL"
            ) from None
        except httpx.TransportError as error:
            what = str(error) or type(error).__name__
            raise ConnectionFailed(f"the connection to {self.settings.url} broke: {what}") from None

    async def ask(self, method: str, path: str, body: object = None, *, timeout: float | None = 30.0) -> Any:
        """Make one small request with JSON both ways."""
        content = None if body is None else json.dumps(body).encode()
        async with self.exchange(method, path, content=content, timeout=timeout) as response:
            return json.loads(await response.aread())

    async def slow_down(self, limit: TelepatchError, seconds: float) -> None:
        """Wait because of a limit; the author is told of the first one."""
        if not self._slowed:
            self._slowed = True
            with contextlib.suppress(SlowedDown):  # for those who have warnings raised: this is a thread of its own
                warnings.warn(
                    f"the service asks to wait, and what was sent goes on by itself when it may: {limit.detail}",
                    SlowedDown,
                    stacklevel=2,
                )
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _opened(self, httpx: Any) -> httpx.AsyncClient:
        if self._client is None:
            key = self.settings.api_key
            headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key is not None else {}
            client: httpx.AsyncClient = httpx.AsyncClient(
                base_url=self.settings.url.rstrip("/"),
                headers=headers,
                transport=self._inner,
                verify=self.settings.url.startswith("https:"),  # making a TLS context costs 30 ms
                trust_env=not self.settings.is_local,
            )
            self._client = client
        return self._client


def _is_answer(response: httpx.Response) -> bool:
    """Whether an error status comes with an ordinary answer that says more, as for refused jobs."""
    return response.status_code == 422 and response.headers.get("content-type", "").startswith("application/json")


def _refusal(response: httpx.Response, body: bytes, url: str) -> TelepatchError:
    try:
        found = json.loads(body)
        record = {field: found[field] for field in _FIELDS if found.get(field) is not None}
        error = from_record({"code": "service_error", "detail": f"status {response.status_code}", **record})
    except (ValueError, TypeError, AttributeError, KeyError):
        kind = Unavailable if response.status_code >= 500 else ServiceError
        error = kind(f"{url} answered with status {response.status_code} and no reason; is it a Telepatch gateway?")
    after = response.headers.get("retry-after", "")
    if isinstance(error, RateLimited | Unavailable) and after.isdigit():
        error.retry_after = float(after)
    return error


async def persist(request: Callable[[], Coroutine[Any, Any, T]], patience: Callable[[], float]) -> T:
    """Repeat a request while the gateway does not answer, for as many seconds as `patience` says by then."""
    begun, pause = time.monotonic(), _FIRST_PAUSE_S
    while True:
        try:
            return await request()
        except RETRIED as error:
            if time.monotonic() - begun > patience():
                raise
            await asyncio.sleep((error.retry_after if isinstance(error, Unavailable) else None) or pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)
