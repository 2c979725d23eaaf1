"""Who is asking: a person by API key, a worker by token, or, on loopback without keys, whoever uses this machine."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from telepatch_protocol.errors import BadArgument, Forbidden, Unauthorized
from telepatch_server.keys import KeyRing
from telepatch_server.services import Services, services
from telepatch_server.settings import Settings, is_loopback

LOCAL: Final = "local"
"""The one person of a gateway without keys."""

_SCHEME = HTTPBearer(auto_error=False, description="An API key, as `telepatch keys add NAME` prints it.")


def key_ring(settings: Settings) -> KeyRing | None:
    """The keys to check, or None on loopback without a keys file.

    Raises:
        BadArgument: others can reach this gateway, and there are no keys to tell them apart.
    """
    file: Path | None = settings.keys_file
    if file is not None:
        return KeyRing(file)
    if settings.loopback:
        return None
    raise BadArgument(
        f"the gateway listens on {settings.host}, where others can reach it, and has no keys file: make one with "
        "'telepatch keys add NAME --file keys.json' and give it as TELEPATCH_KEYS_FILE or --keys-file, "
        "or listen on 127.0.0.1"
    )


async def person(request: Request, found: Annotated[Services, Depends(services)]) -> str:
    """Whose request this is.

    Raises:
        Unauthorized: no key, or not one that is known.
        Forbidden: a web page of somebody else asks, in this person's browser.
    """
    if found.keys is None:
        _check_local(request)
        return LOCAL
    name = found.keys.person(_bearer(request, "an API key: 'telepatch keys add NAME' makes one"))
    if name is None:
        raise Unauthorized("this API key is not known here; it may have been removed")
    return name


async def worker(request: Request, found: Annotated[Services, Depends(services)]) -> None:
    """Let only workers pass.

    Raises:
        Unauthorized: no token, or another one.
        Forbidden: this gateway has none, so no worker may.
    """
    token = found.settings.worker_token
    if token is None:
        raise Forbidden("this gateway takes no blobs from workers; set TELEPATCH_WORKER_TOKEN for both")
    if not hmac.compare_digest(_bearer(request, "the worker token").encode(), token.encode()):
        raise Unauthorized("this is not the worker token of the gateway")


Person = Annotated[str, Depends(person)]
PROTECTED = [Depends(_SCHEME), Depends(person)]
"""What routes of people depend on; the scheme is there for OpenAPI."""


async def admin(name: Person, found: Annotated[Services, Depends(services)]) -> None:
    """Let only those pass who run the service: whoever uses the machine of a gateway without keys.

    Raises:
        Forbidden: a person with a key, who may use the service.
    """
    if found.keys is not None:
        raise Forbidden(f"{name} may use this service, and not change what runs; that needs a gateway on loopback")


ADMIN = [Depends(_SCHEME), Depends(admin)]
"""What routes of those who run the service depend on."""


def _bearer(request: Request, what: str) -> str:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized(f"this call needs the header 'Authorization: Bearer ...' with {what}")
    return secret.strip()


def _check_local(request: Request) -> None:
    """Without keys, a browser would let any web page in: by a name that resolves to this machine, or across origins."""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    if not is_loopback(host):
        raise Forbidden(f"a gateway without keys answers only as 127.0.0.1 or localhost, not as {host!r}")
    origin = request.headers.get("origin")
    if origin is not None and not is_loopback(urlsplit(origin).hostname or ""):
        raise Forbidden("a gateway without keys does not answer to web pages of other machines")
