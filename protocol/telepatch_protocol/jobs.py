"""Jobs as they cross the wire: how they are submitted, the states they go through, the events they cause."""

from __future__ import annotations

import os
import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import FailFast, Field, JsonValue

from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import ErrorRecord

State = Literal["waiting", "queued", "running", "completed", "failed", "cancelled"]
"""``waiting`` for the value of another job, ``queued``, ``running`` on a worker, or ended in one of three ways."""

ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
"""The states that a job does not leave."""

UNENDED: frozenset[State] = frozenset({"waiting", "queued", "running"})
"""The others."""

Priority = Literal["low", "normal", "high"]
"""A person's jobs of ``high`` priority come before those of ``normal``, and these before those of ``low``. Among people
nothing goes ahead but a ``high`` one, by a little, and it counts for more in its owner's turn."""

INLINE_LIMIT = 256 * 1024
"""Results up to this many bytes ride inside messages instead of going through the blob store."""


def new_job_id() -> str:
    """A UUIDv7: unique, and sorted by the time it was made (RFC 9562, section 5.7)."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | (random >> 68) << 64 | 0b10 << 62 | random & (2**62 - 1)
    return str(uuid.UUID(int=value))


class JobSpec(Frozen):
    """One job of a submission: a document of the same submission, with its own constants on top.

    Attributes:
        id: UUID, minted by the client; the same id again is the same job.
        document: index into the submission's documents.
        constants: replace constants of that document, name by name.
        priority: among the person's own jobs; None for that of the request, or ``normal``.
        timeout_seconds: how long it may compute; None for that of the request, or what the model allows.
    """

    id: str
    document: int = 0
    constants: dict[str, JsonValue] = Field(default_factory=dict)
    priority: Priority | None = None
    timeout_seconds: float | None = Field(default=None, gt=0)


class Submission(Frozen):
    """The body of ``POST /v1/jobs``: a structure may come once, with many lists of constants.

    `attachment` is safetensors as base64, for those who cannot send multipart; tensors of the attachment are named by
    ``{"tensor": name}`` constants.
    """

    documents: Annotated[tuple[dict[str, JsonValue], ...], FailFast()]
    jobs: Annotated[tuple[JobSpec, ...], FailFast()]
    dry_run: bool = False
    attachment: str | None = None


class SavedMeta(Frozen):
    """What is known of a saved value before, or without, fetching it; None for what only running it will tell."""

    shape: tuple[int | None, ...] | None = None
    dtype: str | None = None


class Price(Frozen):
    """What a job costs, known before it runs.

    Attributes:
        rows: rows of all its forwards together.
        tokens: rows times positions, padding excluded.
        passes: forwards needed one after the other.
        peak_bytes: bytes of values live at once, besides the model and its activations.
        saved_bytes: bytes that the saved values take.
        flops: floating-point operations, two for each multiply-add.
    """

    rows: int
    tokens: int
    passes: int
    peak_bytes: int
    saved_bytes: int
    flops: float


class Timings(Frozen):
    """Unix times in seconds; None for what has not happened."""

    submitted: float
    queued: float | None = None
    started: float | None = None
    ended: float | None = None


class JobStatus(Frozen):
    """Answer to ``GET /v1/jobs/{id}``; `priority` and `timeout_seconds` where they were asked for."""

    id: str
    model: str
    state: State
    position: int | None = None
    attempts: int = 0
    timings: Timings
    price: Price | None = None
    error: ErrorRecord | None = None
    warnings: tuple[str, ...] = ()
    saves: dict[str, SavedMeta] = Field(default_factory=dict)
    result_bytes: int | None = None
    priority: Priority | None = None
    timeout_seconds: float | None = None


class Accepted(Frozen):
    """What became of one job of a submission.

    Attributes:
        state: None for a job that was refused (`error` says why) or only tried out.
        result: the saved values as base64 safetensors, where they were waited for and are small.
        values: the same as JSON, where that was asked for.
    """

    id: str
    state: State | None = None
    error: ErrorRecord | None = None
    price: Price | None = None
    warnings: tuple[str, ...] = ()
    saves: dict[str, SavedMeta] = Field(default_factory=dict)
    result: str | None = None
    values: dict[str, Any] | None = None


class SubmissionAnswer(Frozen):
    """Answer to ``POST /v1/jobs``, one entry per job, in order.

    `events` is the place in the person's event stream before this submission.
    """

    jobs: tuple[Accepted, ...]
    events: str | None = None


class Event(Frozen):
    """Something that happened to a job, as it stands in the person's stream.

    Attributes:
        id: place in the stream; send it back as ``Last-Event-ID`` to go on from there.
        type: ``queued``, ``running``, ``progress``, ``log``, ``values``, ``completed``, ``failed`` or ``cancelled``.
        data: ``position`` for queued, ``saves`` for completed, ``error`` for failed; small results ride as base64
            safetensors in ``result``.
    """

    id: str
    type: Literal["waiting", "queued", "running", "progress", "log", "values", "completed", "failed", "cancelled"]
    job: str
    at: float
    data: dict[str, Any] = Field(default_factory=dict)
