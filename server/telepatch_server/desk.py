"""Where the command line asks about people: a gateway, with an admin key, or beside the queue, without a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from telepatch_broker.connection import check, connect
from telepatch_broker.launcher import embedded_valkey, running_valkey
from telepatch_broker.people import People
from telepatch_broker.usage import Usage
from telepatch_protocol.errors import BadArgument, ConnectionFailed, ErrorRecord, TelepatchError, from_record
from telepatch_server import problems
from telepatch_server.routes import admin
from telepatch_server.settings import Settings

HOME = Path("~/.local/share/telepatch")
"""Where ``telepatch up`` keeps its queue unless told otherwise."""

_TIMEOUT_S = 60.0
_FIELDS = tuple(ErrorRecord.model_fields)


@dataclass(frozen=True)
class Where:
    """What the command line was told; one way at most, and without any the environment decides.

    Attributes:
        url: of a gateway.
        key: a key of the scope ``admin``, for the gateway.
        redis_url: of the queue.
        home: folder of ``telepatch up``; its queue is started for a moment where it does not run.
    """

    url: str | None = None
    key: str | None = None
    redis_url: str | None = None
    home: Path | None = None

    def or_else(self, found: Mapping[str, str]) -> Where:
        """These, or where nothing was said, a gateway and its key, the queue, or the usual home folder.

        Raises:
            BadArgument: several ways.
        """
        if sum(one is not None for one in (self.url, self.redis_url, self.home)) > 1:
            raise BadArgument("give one of --url, --redis-url and --home; each is a way to people and their keys")
        key = self.key or found.get("TELEPATCH_API_KEY") or None
        if self.url is not None or self.redis_url is not None or self.home is not None:
            return Where(self.url, key, self.redis_url, self.home)
        if key and found.get("TELEPATCH_URL"):
            return Where(url=found["TELEPATCH_URL"], key=key)
        if found.get("TELEPATCH_REDIS_URL"):
            return Where(redis_url=found["TELEPATCH_REDIS_URL"])
        return Where(home=HOME)

    def __str__(self) -> str:
        if self.url is not None:
            return f"the service at {self.url}"
        if self.redis_url is not None:
            return f"the queue at {self.redis_url.rpartition('@')[2]}"
        return f"the service of 'telepatch up' in {self.home}"


class Desk:
    """Answers questions of the command line, one after the other.

    Args:
        client: carries them.
        loop: on which it lives.
        where: in words.
    """

    def __init__(self, client: httpx.AsyncClient, loop: asyncio.Runner, where: str) -> None:
        self._client = client
        self._loop = loop
        self.where = where

    def ask(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """Send one request below ``/v1/admin``, and read the answer as JSON; what is None in the query is left out.

        Raises:
            ConnectionFailed: nobody answers there.
            TelepatchError: it was refused; of the class that was named.
        """
        return self._loop.run(self._ask(method, path, body, {k: v for k, v in query.items() if v is not None}))

    async def _ask(self, method: str, path: str, body: object, query: dict[str, Any]) -> Any:
        try:
            answer = await self._client.request(method, f"/v1/admin{path}", json=body, params=query)
        except httpx.TransportError as error:
            raise ConnectionFailed(f"{self.where} does not answer: {error}") from None
        if answer.status_code >= 400:
            raise _refusal(answer)
        return answer.json() if answer.content else None


@contextmanager
def desk(asked: Where, found: Mapping[str, str]) -> Iterator[Desk]:
    """The desk that the options, or else the variables of the environment, lead to.

    Raises:
        BadArgument: options that exclude each other, or an address that is none.
        Unavailable: the queue does not answer.
    """
    where = asked.or_else(found)
    with ExitStack() as stack:
        if where.url is not None:
            making = _at(where.url, where.key)
        else:
            url = where.redis_url or stack.enter_context(_queue_of(where.home or HOME))
            # Not by from_environment: an old keys file that is still named there is what may be taken over now.
            making = _beside(Settings.read(found, {"redis_url": url}))
        loop = stack.enter_context(asyncio.Runner())
        client = loop.run(making.__aenter__())
        stack.callback(lambda: loop.run(making.__aexit__(None, None, None)))
        yield Desk(client, loop, str(where))


def _at(url: str, key: str | None) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    """A gateway."""
    if not url.startswith(("http://", "https://")):
        raise BadArgument(f"{url!r} is no address of a gateway, such as https://telepatch.example.org")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(base_url=url.rstrip("/"), headers=headers, timeout=_TIMEOUT_S)


@contextmanager
def _queue_of(home: Path) -> Iterator[str]:
    """The queue of ``telepatch up``, whether it runs or not."""
    directory = home.expanduser().absolute() / "valkey"
    if running := running_valkey(directory):
        yield running
        return
    with embedded_valkey(directory) as url:
        yield url


@asynccontextmanager
async def _beside(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The calls of ``/v1/admin`` without a gateway around them: who reaches the queue can do everything anyway."""
    redis = connect(settings.queue)
    try:
        await check(redis)
        app = problems.install(FastAPI())
        app.state.people, app.state.usage = People(redis, settings.limits), Usage(redis)
        app.include_router(admin.router)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://beside") as client:
            yield client
    finally:
        await redis.aclose()


def _refusal(answer: httpx.Response) -> TelepatchError:
    try:
        found = answer.json()
        record = {field: found[field] for field in _FIELDS if found.get(field) is not None}
        return from_record({"code": "service_error", "detail": f"status {answer.status_code}", **record})
    except (ValueError, TypeError, AttributeError):
        return ConnectionFailed(f"{answer.url} answered with status {answer.status_code}; is it a Telepatch gateway?")
