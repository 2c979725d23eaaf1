"""What a person may have, at the door: models, the largest job, and room for more of them."""

from __future__ import annotations

import time

from telepatch_broker.limits import Limits
from telepatch_broker.people import Caller
from telepatch_broker.usage import seconds_to_midnight
from telepatch_protocol.errors import (
    ComputeSpent,
    ErrorRecord,
    JobOverLimit,
    ModelNotAllowed,
    TelepatchError,
    TooManyJobs,
    from_record,
)
from telepatch_protocol.jobs import Price
from telepatch_server.services import Services
from telepatch_server.submission import Received

CROWDED = frozenset({TooManyJobs.code(), ComputeSpent.code()})
"""Refusals after which the same jobs are sent again."""


def check_model(person: str, limits: Limits, model: str) -> None:
    """Refuse a model that a person may not use, whether there is one of that name or not.

    Raises:
        ModelNotAllowed: they may not.
    """
    if limits.models is not None and model not in limits.models:
        allowed = ", ".join(limits.models) or "none"
        raise ModelNotAllowed(f"{person} may not use the model '{model}'; allowed are: {allowed}")


def check_price(person: str, limits: Limits, price: Price) -> None:
    """Refuse a job that is larger than any that a person may send.

    Raises:
        JobOverLimit: it is.
    """
    if limits.job_tokens is not None and price.tokens > limits.job_tokens:
        raise JobOverLimit(
            f"the job is priced at {price.tokens:,} tokens (rows times positions), and a job of {person} may have "
            f"{limits.job_tokens:,}; send fewer rows or shorter texts at a time"
        )
    if limits.job_flops is not None and price.flops > limits.job_flops:
        raise JobOverLimit(
            f"the job is priced at {price.flops:.3g} floating-point operations, and a job of {person} may have "
            f"{limits.job_flops:.3g}; send fewer rows, shorter texts or fewer steps at a time"
        )


async def check_room(received: Received, caller: Caller, found: Services) -> None:
    """Refuse early, before anything is checked, what no job of a submission can have room for.

    The queue decides in the end, in the same step that takes a job; this only spares the work for somebody who tries
    again and again. Jobs that were taken before are the same jobs.

    Raises:
        TooManyJobs: the person has as many as they may have.
        ComputeSpent: the person has used up the day's seconds.
    """
    limits = caller.limits
    if caller.person not in found.crowded:
        return
    standing = await found.usage.standing(caller.person)
    many = limits.jobs_queued is not None and standing.jobs_queued >= limits.jobs_queued
    spent = limits.seconds_per_day is not None and standing.today.seconds >= limits.seconds_per_day
    if not (many or spent):
        found.crowded.discard(caller.person)
        return
    if await _known(received, caller.person, found):
        return
    asked = len(received.submission.jobs)
    if spent:
        raise ComputeSpent(
            f"{caller.person} has used {standing.today.seconds:,.1f} of the {limits.seconds_per_day:,} seconds of "
            f"workers that they may use in a day, and asked for {asked:,} more jobs; a new day begins at midnight, UTC"
        ).after(seconds_to_midnight(time.time()))
    raise TooManyJobs(
        f"{caller.person} has {standing.jobs_queued:,} unended jobs, may have {limits.jobs_queued:,}, and asked for "
        f"{asked:,} more; there is room when one has ended"
    )


async def _known(received: Received, person: str, found: Services) -> bool:
    """Whether some of the jobs are this person's already: a request whose answer was lost is sent again."""
    try:
        return bool(await found.lane.states(person, [spec.id for spec in received.submission.jobs]))
    except TelepatchError:
        return True  # an id that is none is refused with its job


def timed(record: ErrorRecord) -> TelepatchError:
    """What a job was refused with, and for a limit in how long waiting will have helped."""
    error = from_record(record)
    return error.after(seconds_to_midnight(time.time())) if isinstance(error, ComputeSpent) else error
