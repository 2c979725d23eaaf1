"""Who is asking: a person by API key, a worker by token, or, on loopback without keys, whoever uses this machine."""

from __future__ import annotations

import hmac
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from telepatch_broker.limits import Limits
from telepatch_broker.people import LOCAL, SCOPES, Caller, Scope
from telepatch_protocol.errors import Forbidden, Unauthorized
from telepatch_server.services import Services, services
from telepatch_server.settings import is_loopback

READING: Final = frozenset({"/v1/results", "/v1/tokenize", "/v1/detokenize"})
"""Calls that only look, although their questions are too long for a GET."""

ADMIN: Final = "/v1/admin"

_SCHEME = HTTPBearer(auto_error=False, description="An API key, as `telepatch keys add NAME` prints it.")


async def caller(request: Request, found: Annotated[Services, Depends(services)]) -> Caller:
    """Whose request this is, and how much they may have.

    Raises:
        Unauthorized: no key, or not one that is known.
        RateLimited: too many requests of this person, or too many wrong keys from this address.
        Forbidden: the key is not good for this call; or a web page of somebody else asks, in this person's browser.
    """
    if await found.door.open():
        _check_local(request)
        known = Caller(LOCAL, "submit", Limits(bytes_stored=found.settings.gateway_bytes_stored))
    else:
        key = _bearer(request, "an API key: 'telepatch keys add NAME' makes one")
        address = request.client.host if request.client else ""
        known = await found.guesses.ask(key, address, found.people.ask)
    request.state.person = known.person  # who stands in the log from now on
    _check_scope(request, known)
    return known


async def person(known: Annotated[Caller, Depends(caller)]) -> str:
    """The name of whoever asks."""
    return known.person


async def operator(request: Request, found: Annotated[Services, Depends(services)]) -> None:
    """Let only those pass who may look at how the whole deployment is doing, where the gateway is told so.

    Raises:
        Unauthorized: no key, or not one that is known.
        Forbidden: the key is not good for that.
    """
    if found.settings.metrics_open:
        return
    known = await caller(request, found)
    if known.scope != "admin":
        raise Forbidden(
            f"the metrics of this gateway are for keys of the scope 'admin': 'telepatch keys add {known.person} "
            "--scope admin' makes one"
        )


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
Asking = Annotated[Caller, Depends(caller)]
PROTECTED = [Depends(_SCHEME), Depends(caller)]
"""What routes of people depend on; the scheme is there for OpenAPI."""


def scope_of(method: str, path: str) -> Scope:
    """What a key must be good for, for a call by its path as OpenAPI has it."""
    if path.startswith(ADMIN):
        return "admin"
    return "read" if method in ("GET", "HEAD") or path in READING else "submit"


def _check_scope(request: Request, known: Caller) -> None:
    path = str(request.scope["route"].path)
    needed = scope_of(request.method, path)
    if SCOPES.index(known.scope) < SCOPES.index(needed):
        whose = "this key" if known.key else "whoever asks without a key"
        raise Forbidden(
            f"{whose} is good for '{known.scope}', and {request.method} {path} needs '{needed}': "
            f"'telepatch keys add {known.person} --scope {needed}' makes a key for that"
        )


def _bearer(request: Request, what: str) -> str:
    given = request.headers.getlist("authorization")
    if len(given) > 1:
        # What stands between the caller and this gateway may have looked at the other one.
        raise Unauthorized(f"this call has {len(given)} headers 'Authorization'; send one")
    scheme, _, secret = (given[0] if given else "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized(f"this call needs the header 'Authorization: Bearer ...' with {what}")
    return secret.strip()


def _check_local(request: Request) -> None:
    """Without keys, a browser would let any web page in: by a name that resolves to this machine, or across origins."""
    host = _host_of(f"//{request.headers.get('host', '')}")
    if not is_loopback(host):
        raise Forbidden(f"a gateway without keys answers only as 127.0.0.1 or localhost, not as {host!r}")
    strange = any(not is_loopback(_host_of(origin)) for origin in request.headers.getlist("origin"))
    if strange or request.headers.get("sec-fetch-site") == "cross-site":
        raise Forbidden("a gateway without keys does not answer to web pages of other machines")


def _host_of(url: str) -> str:
    """The host of an address; empty for what is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
