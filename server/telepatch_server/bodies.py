"""Reading bodies: never more than allowed, never compressed, and JSON strictly."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, JsonValue, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from telepatch_protocol.errors import BadArgument, PayloadTooLarge, ProtocolError, ServiceError
from telepatch_protocol.meta import shown
from telepatch_protocol.wire import read_json
from telepatch_server.patience import MOST_HEAD
from telepatch_server.problems import problem

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)

LARGE = 256 * 1024
"""Bytes of JSON from which on reading it would hold up other requests."""

_CLOSE = {"Connection": "close"}

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD]")


class Limited:
    """Refuses bodies over a limit while they are read, whatever their headers say, and those that stop coming.

    Requests whose very head cannot be meant well are not passed on at all.

    Args:
        app: what gets the rest.
        most: bytes of a body.
        seconds: how long a sender may be silent in the middle of a body.
        others: the limits of paths that begin so.
    """

    def __init__(self, app: ASGIApp, most: int, seconds: float, others: Mapping[str, int]) -> None:
        self._app = app
        self._most = most
        self._seconds = seconds
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (refusal := _refusal(scope)) is not None:
            await refusal(scope, receive, send)
            return
        named = (most for prefix, most in self._others.items() if scope["path"].startswith(prefix))
        most = next(named, self._most)
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        read, ended = 0, False

        async def counted() -> Message:
            nonlocal read, ended
            if announced.isdigit() and int(announced) > most:
                raise _too_large(f"has {int(announced)} bytes", most)
            message = await (receive() if ended else self._in_time(receive))
            ended = not message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > most:
                raise _too_large("goes on", most)
            return message

        await self._app(scope, counted, send)

    async def _in_time(self, receive: Receive) -> Message:
        """The next piece of a body, unless the sender has fallen silent in the middle of it."""
        try:
            async with asyncio.timeout(self._seconds):
                return await receive()
        except TimeoutError:
            detail = f"nothing of the body came for {self._seconds:g} s; send it again"
            raise HTTPException(408, detail, {"Connection": "close"}) from None


def _refusal(scope: Scope) -> Response | None:
    """The answer to a request that is refused by its head alone, and after which the line is closed."""
    names = [name for name, _ in scope["headers"]]
    coded = [value for name, value in scope["headers"] if name == b"content-encoding" and value.lower() != b"identity"]
    if coded:  # few bytes of compressed ones may stand for very many
        detail = f"the body has Content-Encoding {shown(coded[0].decode('latin-1'))}; send it as it is, without one"
        return problem(ServiceError(detail), status=415, headers=_CLOSE | {"Accept-Encoding": "identity"})
    size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if size + len(scope["query_string"]) + len(scope.get("raw_path", b"")) > MOST_HEAD:
        detail = f"the head of the request has more than {MOST_HEAD:,} bytes"
        return problem(ServiceError(detail), status=431, headers=_CLOSE)
    if names.count(b"host") > 1 or (b"host" not in names and scope["http_version"] == "1.1"):
        return problem(
            ProtocolError(f"the request has {names.count(b'host')} headers 'Host'; send one"), headers=_CLOSE
        )
    if b"content-length" in names and b"transfer-encoding" in names:
        detail = "the request has Content-Length and Transfer-Encoding, which may say different things; send one"
        return problem(ProtocolError(detail), headers=_CLOSE)
    if scope["http_version"] not in ("1.0", "1.1"):
        detail = f"HTTP/{scope['http_version']} is not spoken here; HTTP/1.1 is"
        return problem(ServiceError(detail), status=505, headers=_CLOSE)
    return None


def _too_large(found: str, most: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body of this request {found}, over the limit of {most} bytes")


async def aside(large: bool, work: Callable[[], T]) -> T:
    """Small work is done at once; large work in a thread, so that other requests go on."""
    return await asyncio.to_thread(work) if large else work()


def strict_json(data: bytes) -> JsonValue:
    """JSON whose every text is a text: halves of surrogate pairs could go neither to a tokenizer nor into an answer.

    Raises:
        ProtocolError: not such JSON.
    """
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    found = read_json(data)
    if _ESCAPED_SURROGATE.search(data):
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ProtocolError("a text of the body holds half of a surrogate pair, which is no character") from None
    return found


def body_of(model: type[ModelT]) -> Callable[[Request], Awaitable[ModelT]]:
    """A dependency that reads a body as `model`, whatever its content type claims: curl says it is a form."""

    async def read(request: Request) -> ModelT:
        body = await request.body()
        return await aside(len(body) > LARGE, lambda: parsed(model, strict_json(body)))

    return read


def parsed(model: type[ModelT], found: JsonValue) -> ModelT:
    """JSON values as `model`.

    Raises:
        BadArgument: they are something else; the message names the first field that is wrong.
    """
    if not isinstance(found, dict):
        raise ProtocolError(f"the body is a JSON object with {', '.join(model.model_fields)}")
    try:
        return model.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        known = f"; known: {', '.join(model.model_fields)}" if len(first["loc"]) < 2 else ""
        raise BadArgument(f"{place or 'body'}: {first['msg']}; found {shown(first['input'])}{known}") from None


def documented(model: type[BaseModel], *, multipart: bool = False) -> dict[str, Any]:
    """A body that is read by hand, for OpenAPI."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if multipart:
        parts = {"submission": schema, "attachment": {"type": "string", "format": "binary"}}
        content["multipart/form-data"] = {"schema": {"type": "object", "required": ["submission"], "properties": parts}}
    return {"requestBody": {"required": True, "content": content}}
