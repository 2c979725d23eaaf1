"""From a job as it comes from the queue to a task of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import torch
from pydantic import TypeAdapter, ValidationError

from telepatch_broker.jobs import TakenJob
from telepatch_broker.lane import Lane
from telepatch_protocol.data_files import Rows
from telepatch_protocol.errors import ProtocolError, VersionError
from telepatch_protocol.graph import Graph
from telepatch_protocol.reading import Reader
from telepatch_worker import data, results
from telepatch_worker.data import Columns
from telepatch_worker.plan import Task
from telepatch_worker.recent import Recent

_TOKENS: TypeAdapter[dict[str, list[int]]] = TypeAdapter(dict[str, list[int]])


async def task_of(job: TakenJob, lane: Lane, recent: Recent, reader: Reader) -> Task:
    """Everything that a job needs, fetched.

    Args:
        job: as it came from the queue.
        lane: where it came from.
        recent: values that are still here.
        reader: of its document.

    Raises:
        TelepatchError: the job is not what it should be, or something that it needs is gone.
    """
    return Task(
        id=job.id,
        graph=_graph(job, reader),
        tokens=_tokens(job),
        attachment=results.decode(await lane.attachment(job)),
        results=await _values(job, lane, recent),
        checkpoint=await lane.last_checkpoint(job),
        spent=job.spent,
        timeout_seconds=job.timeout_seconds,
        data={digest: await _columns(job, digest, lane, recent) for digest in job.data},
    )


def _graph(job: TakenJob, reader: Reader) -> Graph:
    try:
        return reader.decode(job.document)
    except VersionError as error:
        raise VersionError(
            f"{error.detail}. The gateway that took this job is newer than the worker that got it; whoever runs the "
            "service has to update the workers before the gateway"
        ) from None


def _tokens(job: TakenJob) -> dict[str, list[int]]:
    if not job.tokens:
        return {}
    try:
        return _TOKENS.validate_json(job.tokens, strict=True)
    except ValidationError as error:
        raise ProtocolError(f"the tokens of the job are not lists of ids by text: {error.errors()[0]['msg']}") from None


async def _values(job: TakenJob, lane: Lane, recent: Recent) -> Mapping[tuple[str, str], torch.Tensor]:
    """The values of earlier jobs; from memory where they are still here."""
    found: dict[tuple[str, str], torch.Tensor] = {}
    for parent in job.parents:
        saved = recent.get(parent)
        if saved is None:
            saved = results.decode(await lane.value(job, parent))
            recent.put(parent, saved)
        found |= {(parent, name): tensor for name, tensor in saved.items() if isinstance(tensor, torch.Tensor)}
    return found


async def _columns(job: TakenJob, digest: str, lane: Lane, recent: Recent) -> Columns:
    """The columns of an upload; from memory where they are still here."""
    kept = recent.get(f"data {digest}")
    if kept is None:
        kept = await asyncio.to_thread(data.decode, await lane.data(job, digest))
        recent.put(f"data {digest}", kept)
    return {name: rows for name, rows in kept.items() if isinstance(rows, Rows)}
