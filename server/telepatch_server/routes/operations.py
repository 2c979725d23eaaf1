"""``/v1/admin`` too: workers that are to end, models that are to be served."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from telepatch_broker.hosts import Copies, HostInfo, Wanted
from telepatch_broker.registry import WorkerInfo
from telepatch_protocol.card import Frozen
from telepatch_server.auth import PROTECTED
from telepatch_server.bodies import body_of, documented
from telepatch_server.problems import responses
from telepatch_server.services import Services, services

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=PROTECTED, responses=responses(401, 403, 422, 503))

Found = Annotated[Services, Depends(services)]


class Workers(Frozen):
    """All workers that are alive."""

    workers: tuple[WorkerInfo, ...]


class Served(Frozen):
    """One model that hosts are to serve, or a worker serves all the same: what is wanted, and what there is."""

    id: str
    wanted: Wanted | None = None
    workers: int = 0
    queued: int = 0
    copies: tuple[Copies, ...] = ()


class Deployment(Frozen):
    """Models, and the hosts that load and unload them."""

    models: tuple[Served, ...]
    hosts: tuple[HostInfo, ...]


class Load(Frozen):
    """What to serve: a model, by so many workers, on one host or on any that has room."""

    id: str = Field(min_length=1, max_length=200)
    replicas: int = Field(default=1, ge=1, le=1000)
    host: str | None = Field(default=None, min_length=1, max_length=200)


class Unloaded(Frozen):
    """What becomes of a model that is served no more: workers finish what they have, and so many jobs stay queued."""

    id: str
    draining: int
    queued: int


@router.get("/workers")
async def workers(found: Found) -> Workers:
    """All workers that are alive, with what each is doing."""
    return Workers(workers=tuple([one for model in await found.registry.overview() for one in model.workers]))


@router.post("/workers/{id}/drain", status_code=202, responses=responses(404))
async def drain(id: str, found: Found) -> WorkerInfo:
    """Have a worker finish what it has, take nothing new, and end."""
    return (await found.registry.drain(id)).model_copy(update={"state": "draining"})


@router.get("/models")
async def models(found: Found) -> Deployment:
    """Which models are wanted and which are there, and what each host says of itself."""
    wanted, hosts = await found.hosts.wanted(), await found.hosts.alive()
    known = {model.id: model for model in await found.registry.overview()}
    served = [
        Served(
            id=id,
            wanted=wanted.get(id),
            workers=len(known[id].workers) if id in known else 0,
            queued=known[id].queued if id in known else 0,
            copies=tuple(copies for host in hosts for copies in host.copies if copies.model == id),
        )
        for id in sorted(known.keys() | wanted.keys())
    ]
    return Deployment(models=tuple(served), hosts=tuple(hosts))


@router.post("/models", status_code=202, responses=responses(404, 409), openapi_extra=documented(Load))
async def load(body: Annotated[Load, Depends(body_of(Load))], found: Found) -> Wanted:
    """Have hosts serve a model; the same again with another number of replicas changes that alone."""
    return await found.hosts.want(body.id, body.replicas, body.host)


@router.delete("/models/{id}", status_code=202, responses=responses(404))
async def unload(id: str, found: Found) -> Unloaded:
    """Have hosts serve a model no more; jobs in hand are finished, and queued ones wait until it is served again."""
    await found.hosts.want_no_more(id)
    alive = await found.registry.workers(id)
    return Unloaded(id=id, draining=len(alive), queued=await found.lane.queue_length(id))
