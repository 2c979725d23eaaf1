"""The body of a submission: JSON, multipart with safetensors, or a bare document for those who use curl."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace

from fastapi import Request

from telepatch_protocol import tensors
from telepatch_protocol.errors import BadArgument, PayloadTooLarge, ProtocolError
from telepatch_protocol.jobs import JobSpec, Priority, Submission, new_job_id
from telepatch_protocol.meta import Meta
from telepatch_protocol.tensors import Tensor
from telepatch_server.bodies import LARGE, aside, parsed, strict_json
from telepatch_server.settings import Settings

_MANY = 8


@dataclass(frozen=True)
class Attached:
    """The tensors sent along with a submission."""

    data: bytes = b""
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(data: bytes) -> Attached:
        """Read a safetensors file; nothing at all is one without tensors."""
        return Attached(data, tensors.decode(data)) if data else Attached()

    @property
    def metas(self) -> dict[str, Meta]:
        """Shape and dtype of each."""
        return {name: tensor.meta for name, tensor in self.tensors.items()}

    def only(self, names: frozenset[str]) -> bytes:
        """A file of just these tensors, as far as they are there."""
        found = {name: tensor for name, tensor in self.tensors.items() if name in names}
        if len(found) == len(self.tensors):
            return self.data
        return tensors.encode(found) if found else b""


@dataclass(frozen=True)
class Received:
    """A submission as it arrived.

    Attributes:
        bare: a document without a submission around it.
        large: work that must not block others.
        hurry: its jobs may have high priority.
        most: how many bytes its documents and attachments may have, each counted as often as it is queued.
    """

    submission: Submission
    attached: Attached
    bare: bool = False
    large: bool = False
    hurry: bool = False
    most: int = 2**62

    def asking(self, priority: Priority | None, timeout_seconds: float | None) -> Received:
        """The same, where the request says what holds for jobs that do not say it themselves."""
        if priority is None and timeout_seconds is None:
            return self
        jobs = tuple(
            spec.model_copy(
                update={
                    "priority": spec.priority or priority,
                    "timeout_seconds": spec.timeout_seconds or timeout_seconds,
                }
            )
            for spec in self.submission.jobs
        )
        return replace(self, submission=self.submission.model_copy(update={"jobs": jobs}))


async def receive(request: Request, settings: Settings, *, dry_run: bool) -> Received:
    """Read a submission.

    Raises:
        ProtocolError: neither of the three forms.
        PayloadTooLarge: more jobs than one request may have.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        text, data = await _parts(request, settings)
    else:
        text, data = await request.body(), b""
    received = await aside(len(text) > LARGE, lambda: _read(text, data, dry_run))
    jobs = len(received.submission.jobs)
    if jobs > settings.gateway_jobs:
        raise PayloadTooLarge(f"the request has {jobs} jobs; one request may have {settings.gateway_jobs}")
    if jobs == 0:
        raise BadArgument("the request has no jobs; give 'jobs' at least one {id, document}")
    return replace(received, most=settings.gateway_documents_bytes)


async def _parts(request: Request, settings: Settings) -> tuple[bytes, bytes]:
    """The parts ``submission`` and ``attachment``."""
    async with request.form(max_files=2, max_fields=2, max_part_size=settings.gateway_body_bytes) as form:
        if unknown := set(form) - {"submission", "attachment"}:
            raise ProtocolError(f"there is no part {sorted(unknown)[0]!r}; the parts are submission and attachment")
        if "submission" not in form:
            raise ProtocolError("the part 'submission' is missing; it is the JSON that a request without parts is")
        submission, attachment = form["submission"], form.get("attachment")
        if isinstance(attachment, str):
            # Without a file name the form is read as text, which tensors do not survive.
            raise ProtocolError("the part 'attachment' has no file name; send it as a file: -F attachment=@FILE")
        text = submission.encode() if isinstance(submission, str) else await submission.read()
        return text, await attachment.read() if attachment is not None else b""


def _read(text: bytes, data: bytes, dry_run: bool) -> Received:
    found = strict_json(text)
    bare = isinstance(found, dict) and "protocol" in found and "documents" not in found
    if bare and isinstance(found, dict):
        submission = Submission(documents=(found,), jobs=(JobSpec(id=new_job_id()),), dry_run=dry_run)
    else:
        submission = parsed(Submission, found)
    if dry_run:
        submission = submission.model_copy(update={"dry_run": True})
    if submission.attachment is not None:
        data = _inline(submission.attachment, data)
    large = len(text) > LARGE or len(submission.jobs) > _MANY
    return Received(submission, Attached.of(data), bare, large)


def _inline(text: str, data: bytes) -> bytes:
    if data:
        raise ProtocolError("the attachment came twice, as a part and inside the submission; send it once")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ProtocolError("'attachment' is not base64") from None
