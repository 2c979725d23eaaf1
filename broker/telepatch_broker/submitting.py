"""Submission: parents before children, attachments to the blob store, then one atomic step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import cast

from telepatch_broker import keys
from telepatch_broker.blobs import Blobs, Source
from telepatch_broker.jobs import NewJob, parents_to_json, saves_to_json
from telepatch_broker.limits import Limits
from telepatch_broker.scripting import Scripts
from telepatch_protocol.errors import (
    BadArgument,
    CausalLoop,
    ComputeSpent,
    Conflict,
    ErrorRecord,
    NotFound,
    ServiceError,
    StorageFull,
    TooManyJobs,
)
from telepatch_protocol.jobs import INLINE_LIMIT, Accepted, State

_AT_ONCE = 200
"""Jobs per step: the server does nothing else meanwhile."""

_LIMITED = ("many", "full", "spent")
"""Answers that say that a limit kept the job out."""

Answer = tuple[str, str]


class Submitter:
    """Queues checked jobs.

    Args:
        run: the scripts.
        store: writes a blob that goes away by itself unless a job refers to it, and returns its name.
        blobs: where attachments are written.
        keep_ms: how long results are kept.
    """

    def __init__(
        self, run: Scripts, store: Callable[[str, Source], Awaitable[str]], blobs: Blobs, keep_ms: int
    ) -> None:
        self._run = run
        self._store = store
        self._blobs = blobs
        self._keep_ms = keep_ms

    async def submit(self, jobs: Sequence[NewJob], limits: Limits) -> list[Accepted]:
        """Queue jobs; see `Lane.submit`."""
        ordered = in_order(jobs)
        hashes = _hashes(jobs)
        uploads = await self._upload(jobs, hashes)
        answers: dict[int, Answer] = {}
        kept_out: dict[str, Answer] = {}
        allowed = [_or_empty(one) for one in (limits.jobs_queued, limits.bytes_stored, limits.seconds_per_day)]
        # Parents come first, so every step finds those of its jobs; a crash in between is mended by sending all again.
        for start in range(0, len(ordered), _AT_ONCE):
            part = []
            for index in ordered[start : start + _AT_ONCE]:
                # What uses values of a job that a limit kept out in an earlier step stays out with it.
                cause = next((kept_out[parent] for parent in jobs[index].parents if parent in kept_out), None)
                if cause is None:
                    part.append(index)
                else:
                    answers[index] = kept_out[jobs[index].id] = cause
            arguments = [value for index in part for value in self._arguments(jobs[index], hashes[index], uploads)]
            rows = await self._run("submit", len(part), *allowed, *arguments)
            answers |= {index: (row[0].decode(), row[1].decode()) for index, row in zip(part, rows, strict=True)}
            kept_out |= {jobs[index].id: answers[index] for index in part if answers[index][0] in _LIMITED}
        used = {hashes[index] for index, answer in answers.items() if answer[0] == "new"}
        for digest in uploads.keys() - used:
            await self._blobs.delete(uploads[digest])
        return [_accepted(job, *answers[index], limits) for index, job in enumerate(jobs)]

    async def _upload(self, jobs: Sequence[NewJob], hashes: Sequence[bytes]) -> dict[bytes, str]:
        """Large attachments by their hash, each written once however many jobs of this call share it."""
        pairs = zip(hashes, jobs, strict=True)
        large = {digest: job.attachment for digest, job in pairs if len(job.attachment) > INLINE_LIMIT}
        return {digest: await self._store("in", data) for digest, data in large.items()}

    def _arguments(self, job: NewJob, hash: bytes, uploads: Mapping[bytes, str]) -> Iterator[str | bytes | float]:
        """One job as the script reads it; an order that ``submit.lua`` repeats."""
        blob = uploads.get(hash, "")
        yield from (job.id, job.person, job.model, job.digest(hash), max(job.cost, 1), int(job.alone), job.group)
        yield from (job.document, job.tokens, b"" if blob else job.attachment, blob)
        yield job.price.model_dump_json() if job.price is not None else ""
        yield from (saves_to_json(job.saves), json.dumps(list(job.warnings)), parents_to_json(job.parents))
        yield from (self._keep_ms, json.dumps(dict(job.data)) if job.data else "")
        yield "long" if job.lane == "long" else ""
        yield 0 if job.price is None else job.price.saved_bytes
        yield "" if job.priority == "normal" else job.priority
        yield "" if job.timeout_seconds is None else job.timeout_seconds
        yield json.dumps(dict(job.origin)) if job.origin else ""


def in_order(jobs: Sequence[NewJob]) -> list[int]:
    """Indices of jobs, parents before children, otherwise as they came.

    Raises:
        CausalLoop: jobs wait for each other in a circle.
        BadArgument: an id, a person or a model that cannot be, or the same id twice.
    """
    places: dict[str, int] = {}
    for index, job in enumerate(jobs):
        _check(job)
        if places.setdefault(job.id, index) != index:
            raise BadArgument(f"two jobs of one submission have the id {job.id}; each needs its own")
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for index, job in enumerate(jobs):
        sorter.add(index, *(places[parent] for parent in job.parents if parent in places))
    try:
        return list(sorter.static_order())
    except CycleError as error:
        circle = " -> ".join(jobs[index].id for index in error.args[1])
        raise CausalLoop(f"these jobs use values of each other in a circle: {circle}") from None


def _check(job: NewJob) -> None:
    keys.check_id(job.id)
    keys.check_name("person", job.person)
    keys.check_name("model", job.model)
    for parent in job.parents:
        keys.check_id(parent)


def _hashes(jobs: Sequence[NewJob]) -> list[bytes]:
    """The hash of each job's attachment; one that many jobs share is read once."""
    known: dict[int, bytes] = {}
    for job in jobs:
        if id(job.attachment) not in known:
            known[id(job.attachment)] = hashlib.sha256(job.attachment).digest()
    return [known[id(job.attachment)] for job in jobs]


def _or_empty(limit: int | None) -> int | str:
    return "" if limit is None else limit


def _accepted(job: NewJob, outcome: str, detail: str, limits: Limits) -> Accepted:
    if outcome in _LIMITED:
        return Accepted(id=job.id, error=_over_limit(job, outcome, detail, limits).record())
    if outcome == "conflict":
        error = Conflict(f"job {job.id} was submitted before with another content; a new job needs a new id")
        return Accepted(id=job.id, error=error.record())
    if outcome == "unknown":
        return Accepted(id=job.id, error=_unknown_parent(job, detail))
    if outcome == "deleted":
        return Accepted(id=job.id, error=NotFound(f"upload {detail}, which is used here, was just deleted").record())
    return Accepted(
        id=job.id, state=cast("State", detail), price=job.price, warnings=job.warnings, saves=dict(job.saves)
    )


def _over_limit(job: NewJob, outcome: str, detail: str, limits: Limits) -> ServiceError:
    """A limit of its owner keeps a job out; `detail` is how much they have."""
    if outcome == "many":
        return TooManyJobs(
            f"{job.person} has {int(detail):,} unended jobs, and may have {limits.jobs_queued:,}; job {job.id} can be "
            "sent again when one of them has ended"
        )
    if outcome == "spent":
        return ComputeSpent(
            f"{job.person} has used {float(detail):,.1f} of the {limits.seconds_per_day:,} seconds of workers that "
            f"they may use in a day; job {job.id} can be sent again after midnight, UTC"
        )
    asked = 0 if job.price is None else job.price.saved_bytes
    return StorageFull(
        f"{job.person} has {int(detail):,} of the {limits.bytes_stored:,} bytes of uploads and results that they may "
        f"have, and job {job.id} would save {asked:,}; delete some (DELETE /v1/data/..., /v1/jobs/...), or save less"
    )


def _unknown_parent(job: NewJob, parent: str) -> ErrorRecord:
    source = job.parents[parent]
    missing = NotFound(f"job {parent}, whose value is used here, is not among yours", parent=parent)
    return missing.at(node=source.node, file=source.file, line=source.line).record()
