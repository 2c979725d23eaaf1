"""``/v1/admin``: people, their keys and limits, and what they use; for keys of the scope ``admin``.

The command line asks these calls too, of a gateway or, next to the queue, of an application of these alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import Field

from telepatch_broker.limits import LIMITS, Limits
from telepatch_broker.people import KeyInfo, NewKey, People, Scope, check_person
from telepatch_broker.usage import DAYS_KEPT, Day, Standing, Usage
from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import BadArgument
from telepatch_server.bodies import body_of, documented
from telepatch_server.problems import responses

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=responses(401, 403, 422, 429, 503))


class NewKeyWanted(Frozen):
    """A key to be made; one without `expires_seconds` does not end."""

    person: str
    scope: Scope = "submit"
    expires_seconds: float | None = Field(default=None, gt=0)


class Rotation(Frozen):
    """How long the old key stays good beside the new one."""

    grace_seconds: float = Field(default=0.0, ge=0)


class Limiting(Frozen):
    """Limits by name, as they are written: a number, names with commas between, or ``none``; null for the usual."""

    limits: dict[str, str | None]


class OldKey(Frozen):
    """A key of an old keys file, as it stands there."""

    name: str
    salt: str = Field(pattern="^([0-9a-f]{2})*$")
    hash: str = Field(pattern="^[0-9a-f]{64}$")
    created: int


class OldKeys(Frozen):
    """An old keys file; its form is version 1."""

    version: Literal[1] = 1
    keys: tuple[OldKey, ...]


class KeyList(Frozen):
    """Keys by person, and of each by the time they were made; those that ended in the last 30 days are among them."""

    keys: tuple[KeyInfo, ...]


class PersonInfo(Frozen):
    """A person: what they may have, which of these limits are their own, and what they have."""

    person: str
    limits: Limits
    own: tuple[str, ...]
    has: Standing


class PeopleList(Frozen):
    """Everybody."""

    people: tuple[PersonInfo, ...]


class UsageList(Frozen):
    """What was used, by person and day (UTC), oldest first."""

    usage: tuple[Day, ...]


async def people_of(request: Request) -> People:
    """Who may ask, and how much they may have."""
    found = request.app.state.people
    assert isinstance(found, People)
    return found


async def usage_of(request: Request) -> Usage:
    """What they have used up."""
    found = request.app.state.usage
    assert isinstance(found, Usage)
    return found


Everybody = Annotated[People, Depends(people_of)]
Accounts = Annotated[Usage, Depends(usage_of)]
Whose = Annotated[str | None, Query(description="Only of this person.")]


@router.get("/keys")
async def keys(people: Everybody, person: Whose = None) -> KeyList:
    """All keys; never the keys themselves."""
    return KeyList(keys=tuple(await people.keys(person if person is None else check_person(person))))


@router.post("/keys", status_code=201, openapi_extra=documented(NewKeyWanted))
async def add_key(wanted: Annotated[NewKeyWanted, Depends(body_of(NewKeyWanted))], people: Everybody) -> NewKey:
    """Make a key; it is shown in this answer and never again."""
    return await people.add(wanted.person, wanted.scope, expires_seconds=wanted.expires_seconds)


@router.post("/keys/{id}/rotation", status_code=201, responses=responses(404), openapi_extra=documented(Rotation))
async def rotate_key(id: str, wanted: Annotated[Rotation, Depends(body_of(Rotation))], people: Everybody) -> NewKey:
    """Make a key in the place of another, which stays good for as long as is said."""
    return await people.rotate(id, grace_seconds=wanted.grace_seconds)


@router.post("/keys/import", status_code=201, openapi_extra=documented(OldKeys))
async def import_keys(wanted: Annotated[OldKeys, Depends(body_of(OldKeys))], people: Everybody) -> KeyList:
    """Take over the keys of an old keys file, all of the scope `submit`; answers with those that were new."""
    return KeyList(keys=tuple(await people.adopt((one.name, one.salt, one.hash) for one in wanted.keys)))


@router.delete("/keys/{id}", status_code=204, responses=responses(404))
async def remove_key(id: str, people: Everybody) -> Response:
    """Make a key worthless, at once and on every gateway."""
    await people.remove(id)
    return Response(status_code=204)


@router.get("/people")
async def everybody(people: Everybody, usage: Accounts) -> PeopleList:
    """Everybody who has or had a key, has limits of their own, or has used anything."""
    return PeopleList(people=tuple([await _person(name, people, usage) for name in await people.names()]))


@router.get("/people/{name}")
async def somebody(name: str, people: Everybody, usage: Accounts) -> PersonInfo:
    """One person; somebody who was never heard of has the usual limits, and nothing."""
    return await _person(check_person(name), people, usage)


@router.patch("/people/{name}", openapi_extra=documented(Limiting))
async def limit(
    name: str, wanted: Annotated[Limiting, Depends(body_of(Limiting))], people: Everybody, usage: Accounts
) -> PersonInfo:
    """Give a person limits of their own, or the usual ones back; they hold from the next request on."""
    if not wanted.limits:
        raise BadArgument(f"'limits' names no limit; there are: {', '.join(LIMITS)}")
    await people.limit(name, wanted.limits)
    return await _person(name, people, usage)


@router.get("/usage")
async def used(
    people: Everybody,
    usage: Accounts,
    person: Whose = None,
    days: Annotated[int, Query(ge=1, le=DAYS_KEPT, description="How many, today the last.")] = 30,
) -> UsageList:
    """What people have used up, by day; days without anything are left out."""
    names = await people.names() if person is None else [check_person(person)]
    return UsageList(usage=tuple(await usage.days(names, days)))


async def _person(name: str, people: People, usage: Usage) -> PersonInfo:
    own = await people.own_limits(name)
    return PersonInfo(person=name, limits=people.usual.but(own), own=tuple(sorted(own)), has=await usage.standing(name))
