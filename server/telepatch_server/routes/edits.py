"""``/v1/edits``: fragments of graphs that a person stores under a name, and applies to inputs of later graphs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import JsonValue

from telepatch_broker.edits import StoredEdit
from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import PayloadTooLarge, ProtocolError
from telepatch_protocol.fragments import MAX_BYTES, Fragment
from telepatch_protocol.graph import EditName
from telepatch_protocol.wire import decode_edit, edit_from_dict
from telepatch_server.allowance import check_model
from telepatch_server.auth import PROTECTED, Asking, Person
from telepatch_server.bodies import LARGE, aside, documented, strict_json
from telepatch_server.edit_checks import check_stored
from telepatch_server.problems import responses
from telepatch_server.services import Services, services

router = APIRouter(
    prefix="/v1/edits", tags=["edits"], dependencies=PROTECTED, responses=responses(401, 403, 422, 429, 503)
)

Found = Annotated[Services, Depends(services)]
Name = Annotated[EditName, Path()]


class EditInfo(Frozen):
    """What an edit is, without its nodes.

    Attributes:
        arguments: what it takes, each with `default` where it has one.
        version: sha256 of the document; another one, once it is replaced.
        changed: Unix time at which it was stored last.
    """

    name: str
    model: str
    arguments: dict[str, dict[str, JsonValue]]
    nodes: int
    bytes: int
    version: str
    changed: float


class Edit(EditInfo):
    """An edit with the fragment itself."""

    edit: dict[str, JsonValue]


class EditList(Frozen):
    """One's own edits, by name."""

    edits: tuple[EditInfo, ...]


@router.get("")
async def edits(person: Person, found: Found) -> EditList:
    """One's own edits."""
    kept = await found.edits.all_of(person)
    large = sum(len(one.document) for one in kept.values()) > LARGE
    return EditList(
        edits=await aside(large, lambda: tuple(EditInfo(**_about(name, one)) for name, one in kept.items()))
    )


@router.put(
    "/{name}",
    response_class=JSONResponse,
    responses={
        200: {"model": EditInfo, "description": "Stored, in place of another of that name"},
        201: {"model": EditInfo, "description": "Stored"},
        **responses(400, 404, 409, 410, 413),
    },
    openapi_extra=documented(Fragment),
)
async def put(name: Name, request: Request, known: Asking, found: Found) -> Response:
    """Store an edit, checked against its model as if it were applied to an input."""
    body = await request.body()
    if len(body) > MAX_BYTES:
        raise PayloadTooLarge(
            f"the edit has {len(body):,} bytes, over the limit of {MAX_BYTES:,}; tensors in it are uploads "
            "(PUT /v1/data/{sha256}), or results of jobs"
        )
    document = strict_json(body)
    fragment = edit_from_dict(document)
    check_model(known.person, known.limits, fragment.model.id)
    model = await found.catalogue.model(fragment.model.id)
    await check_stored(fragment, model.card, known.person, found)
    stored, new = await found.edits.put(known.person, name, fragment.to_json())
    return Response(EditInfo(**_about(name, stored)).model_dump_json(), 201 if new else 200, None, "application/json")


@router.get("/{name}", responses=responses(404))
async def get(name: Name, person: Person, found: Found) -> Edit:
    """One edit."""
    stored = await found.edits.get(person, name)
    document = strict_json(stored.document.encode())
    if not isinstance(document, dict):
        raise ProtocolError(f"edit '{name}' is stored as something else than an edit")
    return Edit(**_about(name, stored), edit=document)


@router.delete("/{name}", status_code=204, responses=responses(404))
async def delete(name: Name, person: Person, found: Found) -> Response:
    """Forget an edit; jobs that were accepted before have it in place."""
    await found.edits.delete(person, name)
    return Response(status_code=204)


def _about(name: str, stored: StoredEdit) -> dict[str, Any]:
    fragment = decode_edit(stored.document)
    arguments = {key: one.model_dump(exclude_defaults=True) for key, one in fragment.arguments.items()}
    return {
        "name": name,
        "model": fragment.model.id,
        "arguments": arguments,
        "nodes": fragment.size[0],
        "bytes": len(stored.document),
        "version": stored.version,
        "changed": stored.changed,
    }
