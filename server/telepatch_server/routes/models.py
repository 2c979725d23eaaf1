"""``/v1/models``: which models there are, and all that can be asked of each."""

from __future__ import annotations

import gzip
import hashlib
import json
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from telepatch_broker.registry import LoadProgress
from telepatch_protocol import PROTOCOL
from telepatch_protocol.card import Frozen, Limits, ModelCard
from telepatch_protocol.graph import EXECUTED, KINDS
from telepatch_protocol.ops.vocabulary import OPS
from telepatch_server.allowance import check_model
from telepatch_server.auth import PROTECTED, Asking
from telepatch_server.catalogue import Model
from telepatch_server.problems import responses
from telepatch_server.ranges import matches
from telepatch_server.services import Services, services

router = APIRouter(
    prefix="/v1/models", tags=["models"], dependencies=PROTECTED, responses=responses(401, 403, 422, 429, 503)
)

Found = Annotated[Services, Depends(services)]


class Operation(Frozen):
    """One operation of the vocabulary; `outputs` names them where there are several."""

    name: str
    signature: str
    outputs: tuple[str, ...] = ()


class Spoken(Frozen):
    """What this service understands: the protocol's version, kinds of nodes, and those of them that it runs."""

    protocol: tuple[int, int] = PROTOCOL
    kinds: tuple[str, ...] = KINDS
    executed: tuple[str, ...] = tuple(sorted(EXECUTED))


class ModelSummary(Frozen):
    """A model as lists show it; `workers` counts those that are alive, `queued` the jobs that wait for one.

    One that is `unloaded` is served no more, and its jobs wait until it is loaded again.
    """

    id: str
    revision: str
    title: str = ""
    kind: str
    queued: int
    workers: int
    loading: tuple[LoadProgress, ...] = ()
    unloaded: bool = False
    limits: Limits


class ModelList(Spoken):
    """All models."""

    models: tuple[ModelSummary, ...]


class ModelDetails(Spoken):
    """One model: its card, and the operations that its graphs may use."""

    operations: tuple[Operation, ...]
    card: ModelCard
    queued: int
    workers: int
    loading: tuple[LoadProgress, ...] = ()


@router.get("")
async def models(known: Asking, found: Found) -> ModelList:
    """All models that one may use, with their queues and workers."""
    summaries = []
    allowed = known.limits.models
    for about in await found.registry.overview():
        if allowed is not None and about.id not in allowed:
            continue
        card = (await found.catalogue.model(about.id)).card
        summaries.append(
            ModelSummary(
                id=card.id,
                revision=card.revision,
                title=card.title,
                kind=card.kind,
                queued=about.queued,
                workers=len(about.workers),
                loading=about.loading,
                unloaded=about.id in found.catalogue.unloaded,
                limits=card.limits,
            )
        )
    return ModelList(models=tuple(summaries))


@router.get(
    "/{id}",
    response_class=Response,
    responses={
        200: {"model": ModelDetails, "description": "The model"},
        304: {"description": "Neither the card nor the service has changed"},
        **responses(404),
    },
)
async def model(request: Request, id: str, asking: Asking, found: Found) -> Response:
    """One model: modules with their places in the forward, aliases, limits, and the operations there are."""
    check_model(asking.person, asking.limits, id)
    known = await found.catalogue.model(id)
    card = known.card
    headers = {"ETag": _etag(known), "Vary": "Accept-Encoding", "Cache-Control": "private, no-cache"}
    if matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(None, 304, headers)
    details = ModelDetails(
        operations=operations(),
        card=card,
        queued=await found.lane.queue_length(id),
        workers=len(await found.registry.workers(id)),
        loading=tuple(await found.registry.loading(id)),
    )
    body = details.model_dump_json(exclude_none=True).encode()
    if "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, 1)
        headers["Content-Encoding"] = "gzip"
    return Response(body, 200, headers, "application/json")


@cache
def operations() -> tuple[Operation, ...]:
    """The vocabulary, in alphabetical order."""
    return tuple(
        Operation(name=op.name, signature=op.signature, outputs=tuple(op.outputs or ()))
        for op in sorted(OPS.values(), key=lambda op: op.name)
    )


def _etag(model: Model) -> str:
    """Changes with the model and with what the service understands; weak, because queues come and go."""
    digest = hashlib.sha256(model.json).hexdigest()[:12]
    return f'W/"{model.card.revision}-{digest}-{_spoken_digest()}"'


@cache
def _spoken_digest() -> str:
    spoken: list[Any] = [Spoken().model_dump(mode="json"), [one.model_dump(mode="json") for one in operations()]]
    return hashlib.sha256(json.dumps(spoken, sort_keys=True).encode()).hexdigest()[:12]
