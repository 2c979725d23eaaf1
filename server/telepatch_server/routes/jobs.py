"""``/v1/jobs``: submit, look at, list, cancel."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import field_validator

from telepatch_broker.jobs import NewJob, Result
from telepatch_broker.limits import Limits
from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import (
    Cancelled,
    Conflict,
    ErrorRecord,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    TelepatchError,
    Unauthorized,
)
from telepatch_protocol.jobs import ENDED, Accepted, JobStatus, Priority, State, Submission, SubmissionAnswer
from telepatch_server.access import origin_of
from telepatch_server.admission import Admitted, Verdict, admit
from telepatch_server.allowance import CROWDED, check_room, timed
from telepatch_server.auth import PROTECTED, Asking, Person
from telepatch_server.bodies import body_of, documented
from telepatch_server.problems import problem, responses
from telepatch_server.readable import readable
from telepatch_server.services import Services, services
from telepatch_server.submission import Received, receive

router = APIRouter(
    prefix="/v1/jobs", tags=["jobs"], dependencies=PROTECTED, responses=responses(401, 403, 422, 429, 503)
)

_log = structlog.get_logger(__name__)

Format = Literal["safetensors", "json"]
Found = Annotated[Services, Depends(services)]


class Cancelling(Frozen):
    """What is to be cancelled: jobs by id, or ``"all"`` of one's own that have not ended."""

    jobs: tuple[str, ...] | Literal["all"]

    @field_validator("jobs", mode="before")
    @classmethod
    def _ids_or_all(cls, value: object) -> object:
        if value == "all" or (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            return value
        raise ValueError('a list of ids works, or "all"')


class AfterCancelling(Frozen):
    """One job after that: its state, or why it has none."""

    id: str
    state: State | None = None
    error: ErrorRecord | None = None


class Cancellation(Frozen):
    """The jobs that were named, in order; of ``"all"`` those that were cancelled."""

    jobs: tuple[AfterCancelling, ...]


class JobList(Frozen):
    """Some of a person's jobs, newest first; `cursor` asks for the next ones."""

    jobs: tuple[JobStatus, ...]
    cursor: str | None = None


@router.post(
    "",
    status_code=202,
    responses={
        200: {"model": SubmissionAnswer, "description": "All that was waited for has ended, or nothing was queued"},
        202: {"model": SubmissionAnswer, "description": "Queued"},
        422: {"model": SubmissionAnswer, "description": "Every job was refused, or this is no submission"}
        | {"content": responses(422)[422]["content"]},
        **responses(400, 413, 429),
    },
    openapi_extra=documented(Submission, multipart=True),
    response_class=JSONResponse,
)
async def submit(
    request: Request,
    known: Asking,
    found: Found,
    wait: Annotated[float, Query(ge=0, description="Seconds to wait for the results.")] = 0.0,
    format: Annotated[Format | None, Query(description="How results come that were waited for.")] = None,
    dry_run: Annotated[bool, Query(description="Check and price, queue nothing.")] = False,
    priority: Annotated[Priority | None, Query(description="Of the jobs that do not say theirs.")] = None,
    timeout_seconds: Annotated[float | None, Query(gt=0, description="Of the jobs that do not say theirs.")] = None,
) -> Response:
    """Submit jobs: one, or many that share documents; or a bare document, which is one job."""
    received, person = await receive(request, found.settings, dry_run=dry_run), known.person
    hurry = not known.key or found.settings.may_hurry(person)
    received = replace(received.asking(priority, timeout_seconds), hurry=hurry)
    if not received.submission.dry_run:
        await check_room(received, known, found)
    verdicts = await admit(
        received, person, found.catalogue, found.lane, found.uploads, found.edits, limits=known.limits
    )
    if received.submission.dry_run:
        return _answer(received, [_tried(*pair) for pair in _pairs(received, verdicts)], None, done=True)
    before = await found.log.last(person)
    answers = await _queue(received, verdicts, known.limits, found, origin_of(request.scope))
    if any(one.error is not None and one.error.code in CROWDED for one in answers):
        found.crowded.add(person)
    _write(person, verdicts, answers)
    as_json = (format or ("json" if received.bare else "safetensors")) == "json"
    if wait > 0:
        seconds = min(wait, found.settings.gateway_wait_seconds)
        answers = await _await(answers, person, found, seconds, as_json, request)
        if not await found.people.still(known):
            raise Unauthorized("this API key was removed, or has ended, while its owner waited for results")
    done = wait > 0 and all(one.state in ENDED for one in answers if one.state is not None)
    return _answer(received, answers, before, done=done)


@router.get("/{id}", responses=responses(404), response_model_exclude_none=True)
async def status(id: str, person: Person, found: Found) -> JobStatus:
    """How a job is doing."""
    return await found.lane.status(person, id)


@router.get("", response_model_exclude_none=True)
async def list_jobs(
    person: Person,
    found: Found,
    state: Annotated[State | None, Query(description="Only jobs in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    cursor: Annotated[str | None, Query(description="Where to go on, from the page before.")] = None,
) -> JobList:
    """One's own jobs, newest first."""
    page = await found.lane.list_jobs(person, state=state, cursor=cursor, limit=limit)
    return JobList(jobs=page.jobs, cursor=page.cursor)


@router.post(
    "/cancel", responses=responses(413), response_model_exclude_none=True, openapi_extra=documented(Cancelling)
)
async def cancel(
    person: Person, found: Found, asked: Annotated[Cancelling, Depends(body_of(Cancelling))]
) -> Cancellation:
    """Cancel many jobs at once; those that have ended stay as they are."""
    if asked.jobs == "all":
        gone = await found.lane.cancel_everything(person)
        return Cancellation(jobs=tuple(AfterCancelling(id=id, state="cancelled") for id in gone))
    if len(asked.jobs) > found.settings.gateway_jobs:
        most = found.settings.gateway_jobs
        raise PayloadTooLarge(f'the request names {len(asked.jobs)} jobs; one request may name {most}, or "all"')
    states = await found.lane.cancel_all(person, asked.jobs)
    return Cancellation(jobs=tuple(_after(id, states) for id in asked.jobs))


@router.delete("/{id}", responses=responses(404), response_model_exclude_none=True)
async def delete(id: str, person: Person, found: Found) -> JobStatus:
    """Cancel a job that has not ended; delete the result of one that has."""
    before = await found.lane.status(person, id)
    if before.state in ENDED:
        await found.lane.delete_result(person, id)
    else:
        await found.lane.cancel(person, id)
        _log.info("job_cancelled", person=person, job=id, model=before.model)
    return await found.lane.status(person, id)


def _pairs(received: Received, verdicts: Sequence[Verdict]) -> list[tuple[str, Verdict]]:
    return [(spec.id, verdict) for spec, verdict in zip(received.submission.jobs, verdicts, strict=True)]


def _tried(id: str, verdict: Verdict) -> Accepted:
    """What a job that is not queued is told."""
    if isinstance(verdict, TelepatchError):
        return Accepted(id=id, error=verdict.record())
    job = verdict.job
    return Accepted(id=id, price=job.price, warnings=job.warnings, saves=dict(job.saves))


async def _queue(
    received: Received, verdicts: Sequence[Verdict], limits: Limits, found: Services, origin: dict[str, str]
) -> list[Accepted]:
    """Queue what was admitted, in one step."""
    jobs: list[NewJob] = [replace(one.job, origin=origin) for one in verdicts if isinstance(one, Admitted)]
    queued = {answer.id: answer for answer in await found.lane.submit(jobs, limits)} if jobs else {}
    answers = [
        queued[id] if isinstance(verdict, Admitted) else _tried(id, verdict)
        for id, verdict in _pairs(received, verdicts)
    ]
    for answer in answers:
        found.metrics.submitted("queued" if answer.error is None else answer.error.code)
    return answers


def _write(person: str, verdicts: Sequence[Verdict], answers: Sequence[Accepted]) -> None:
    """A line in the log: which jobs were queued for which models, and which were refused with what."""
    models = {one.job.id: one.job.model for one in verdicts if isinstance(one, Admitted)}
    queued = {one.id: models[one.id] for one in answers if one.error is None}
    refused = {one.id: one.error.code for one in answers if one.error is not None}
    _log.info("jobs_submitted", person=person, jobs=queued, refused=refused)


async def _await(
    answers: list[Accepted],
    person: str,
    found: Services,
    seconds: float,
    as_json: bool,
    request: Request,
) -> list[Accepted]:
    """Wait until the queued jobs have ended, the time is over, whoever asked is gone or the gateway ends; then say what
    there is."""
    ids = [answer.id for answer in answers if answer.state is not None]
    if not ids:
        return answers
    waiting = asyncio.ensure_future(found.hub.wait_for(person, ids, seconds))
    others = [asyncio.ensure_future(found.closing.wait()), asyncio.ensure_future(_gone(request))]
    try:
        await asyncio.wait({waiting, *others}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            waiting.result()
    finally:
        for one in (waiting, *others):
            one.cancel()
        await asyncio.gather(waiting, *others, return_exceptions=True)
    results = await found.lane.results(person, ids)
    unended = [id for id, result in results.items() if isinstance(result, Conflict)]
    states = await found.lane.states(person, unended) if unended else {}
    most = found.settings.gateway_json_values if as_json else None
    return [answer if answer.state is None else _ended(answer, results[answer.id], states, most) for answer in answers]


async def _gone(request: Request) -> None:
    """Returns once whoever asks has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _ended(answer: Accepted, result: Result | TelepatchError, states: dict[str, State], most: int | None) -> Accepted:
    """An answer with what became of the job."""
    if isinstance(result, Conflict):
        return answer.model_copy(update={"state": states.get(answer.id, answer.state)})
    if isinstance(result, TelepatchError):
        state = "cancelled" if isinstance(result, Cancelled) else "failed"
        return answer.model_copy(update={"state": state, "error": result.record()})
    told: dict[str, Any] = {"state": "completed", "saves": result.saves}
    if result.inline is not None and most is None:
        told["result"] = base64.b64encode(result.inline).decode()
    elif result.inline is not None and most is not None:
        try:
            told["values"] = readable(result.inline, most)
        except TelepatchError as error:
            told["warnings"] = (*answer.warnings, error.detail)
    return answer.model_copy(update=told)


def _answer(received: Received, answers: list[Accepted], events: str | None, *, done: bool) -> Response:
    refused = [answer.error for answer in answers if answer.state is None and answer.error is not None]
    errors = [timed(error) for error in refused]
    if refused and (
        received.bare or (len(refused) == len(answers) and all(isinstance(one, RateLimited) for one in errors))
    ):
        return problem(errors[0])
    status = 422 if len(refused) == len(answers) else 200 if done else 202
    body = SubmissionAnswer(jobs=tuple(answers), events=events)
    return Response(body.model_dump_json(exclude_none=True), status, media_type="application/json")


def _after(id: str, states: Mapping[str, State]) -> AfterCancelling:
    """A job that was to be cancelled."""
    if id in states:
        return AfterCancelling(id=id, state=states[id])
    return AfterCancelling(id=id, error=NotFound(f"there is no job {id} among yours").record())
