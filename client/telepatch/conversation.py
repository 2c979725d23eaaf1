"""What is said to the gateway and what follows from its answers, without any input or output.

The courier asks `next_batch` what to send, sends it, and reports answers, events and states here; outcomes change.
"""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from pydantic import JsonValue

from telepatch import tracing
from telepatch.outcome import Outcome
from telepatch.queueing import USUAL, Queueing
from telepatch_protocol import tensors
from telepatch_protocol.errors import ErrorRecord, TelepatchError, TooManyJobs, from_record
from telepatch_protocol.graph import Graph
from telepatch_protocol.jobs import ENDED, Accepted, Event, JobStatus, SavedMeta, SubmissionAnswer
from telepatch_protocol.tensors import Tensor
from telepatch_protocol.understood import understood

MAX_JOBS = 500
"""Jobs that go into one request."""

MAX_BYTES = 32 * 2**20
"""Bytes that go into one request, unless a single job is larger."""

MAX_PENDING = 2000
"""Jobs that may wait to be sent."""

MAX_PENDING_BYTES = 256 * 2**20
"""Bytes that may wait to be sent."""


@dataclass(frozen=True, slots=True, eq=False)
class Parcel:
    """A job on its way.

    Attributes:
        outcome: where answers go.
        structure: the document without its constants, as JSON.
        constants: its constants.
        tensors: what is sent along, by name.
        size: about how many bytes it takes.
        parents: jobs whose values it uses.
        queueing: its priority, and how long it may compute.
        context: where in a trace of OpenTelemetry its author was, where traces are kept.
    """

    outcome: Outcome
    structure: str
    constants: dict[str, JsonValue]
    tensors: dict[str, Tensor]
    size: int
    parents: tuple[Outcome, ...] = ()
    queueing: Queueing = USUAL
    context: object = None

    @staticmethod
    def of(
        outcome: Outcome,
        graph: Graph,
        attached: dict[str, Tensor],
        parents: Iterable[Outcome] = (),
        queueing: Queueing = USUAL,
    ) -> Parcel:
        """A graph with its tensors."""
        document = graph.to_dict()
        constants = document.pop("constants", {})
        assert isinstance(constants, dict)
        document["constants"] = dict.fromkeys(constants)
        structure = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        size = len(structure) + 40 * len(constants) + sum(tensor.array.nbytes for tensor in attached.values())
        return Parcel(outcome, structure, constants, attached, size, tuple(parents), queueing, tracing.context())


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that go into one request: every structure once, every tensor once."""

    parcels: tuple[Parcel, ...]

    @property
    def submission(self) -> bytes:
        """The body, without tensors."""
        structures: dict[str, int] = {}
        jobs = []
        for parcel in self.parcels:
            document = structures.setdefault(parcel.structure, len(structures))
            constants = json.dumps(parcel.constants, ensure_ascii=False, separators=(",", ":"))
            more = "".join(f',"{name}":{json.dumps(said)}' for name, said in parcel.queueing.on_wire().items())
            jobs.append(f'{{"id":"{parcel.outcome.job}","document":{document},"constants":{constants}{more}}}')
        return f'{{"documents":[{",".join(structures)}],"jobs":[{",".join(jobs)}]}}'.encode()

    @property
    def attachment(self) -> bytes | None:
        """The tensors, as safetensors."""
        together = {name: tensor for parcel in self.parcels for name, tensor in parcel.tensors.items()}
        return tensors.encode(together) if together else None


class Conversation:
    """Jobs that wait to be sent, and jobs that were sent and have not ended."""

    def __init__(self) -> None:
        self.pending: deque[Parcel] = deque()
        self.pending_bytes = 0
        self.open: dict[str, Outcome] = {}
        self._together = 0
        self.place: str | None = None
        self.failed: dict[str, Outcome] = {}
        self.streaming: WeakValueDictionary[str, Outcome] = WeakValueDictionary()

    @property
    def full(self) -> bool:
        """Whether whoever adds more should wait."""
        return len(self.pending) >= MAX_PENDING or self.pending_bytes >= MAX_PENDING_BYTES

    def add(self, parcel: Parcel) -> None:
        """One more job to be sent."""
        self.pending.append(parcel)
        self.pending_bytes += parcel.size
        parcel.outcome.own = True
        self.follow(parcel.outcome)

    def follow(self, outcome: Outcome) -> None:
        """A job that was sent by somebody else, whose end is of interest here."""
        self._together = self._together + 1 if self.open else 1
        self.open.setdefault(outcome.job, outcome)

    def counted(self) -> tuple[int, int]:
        """How many jobs have ended, and how many there are, since last none was open."""
        return self._together - len(self.open), self._together

    def next_batch(self) -> Batch | None:
        """As much of what waits as fits into one request, oldest first."""
        taken: list[Parcel] = []
        size = 0
        while self.pending and len(taken) < MAX_JOBS and (not taken or size + self.pending[0].size <= MAX_BYTES):
            taken.append(self.pending.popleft())
            size += taken[-1].size
        self.pending_bytes -= size
        return Batch(tuple(taken)) if taken else None

    def answered(self, batch: Batch, answer: SubmissionAnswer) -> tuple[Batch, TelepatchError] | None:
        """The gateway has taken or refused each job of a batch; gives back those that have no room yet, and why."""
        self.place = self.place or answer.events
        waiting: list[Parcel] = []
        why: TelepatchError | None = None
        for parcel, accepted in zip(batch.parcels, answer.jobs, strict=True):
            if accepted.state is None and accepted.error is not None and accepted.error.code == TooManyJobs.code():
                waiting.append(parcel)
                why = why or from_record(accepted.error)
            else:
                self._accepted(parcel, accepted)
        return None if why is None else (Batch(tuple(waiting)), why)

    def refused(self, batch: Batch, error: TelepatchError) -> None:
        """The whole request failed."""
        for parcel in batch.parcels:
            self._fail(parcel.outcome, error.record())

    def split(self, batch: Batch) -> tuple[Batch, Batch] | None:
        """Two smaller requests in place of one that was too large; None for a single job."""
        middle = len(batch.parcels) // 2
        return (Batch(batch.parcels[:middle]), Batch(batch.parcels[middle:])) if middle else None

    def heard(self, event: Event) -> None:
        """Something has happened to a job."""
        self.place = event.id
        outcome = self.open.get(event.job) or self.streaming.get(event.job)
        if outcome is None:
            return
        if event.type == "values":
            outcome.told(list(event.data.get("values") or ()))
        elif event.type == "completed":
            result = event.data.get("result")
            saves = {name: understood(SavedMeta, found) for name, found in (event.data.get("saves") or {}).items()}
            self._complete(outcome, saves, None if result is None else base64.b64decode(result))
        elif event.type in ("failed", "cancelled"):
            self._fail(outcome, _record(event.data.get("error"), event.type, event.job), event.type)
        elif event.type in ("waiting", "queued", "running"):
            outcome.move(event.type, event.data.get("position"))
        if event.type == "completed":
            outcome.heard_out()

    def learned(self, status: JobStatus) -> None:
        """The gateway was asked how a job is."""
        outcome = self.open.get(status.id)
        if outcome is None:
            return
        if status.state == "completed":
            self._complete(outcome, status.saves, None)
        elif status.state in ENDED:
            self._fail(outcome, status.error or _record(None, status.state, status.id), status.state, late=True)
        else:
            outcome.move(status.state, status.position)

    def own(self) -> list[str]:
        """Ids of the jobs that were submitted from here and have not ended."""
        return [job for job, outcome in self.open.items() if outcome.own]

    def take_back(self) -> int:
        """Nothing that waits to be sent is sent: it was cancelled. Returns how many jobs these were."""
        dropped = [parcel.outcome.job for parcel in self.pending]
        self.pending.clear()
        self.pending_bytes = 0
        for job in dropped:
            self.cancelled(job)
        return len(dropped)

    def cancelled(self, job: str) -> None:
        """The gateway has cancelled a job, or will never hear of it."""
        outcome = self.open.get(job)
        if outcome is not None:
            self._fail(outcome, _record(None, "cancelled", job), "cancelled", late=True)

    def unsent(self) -> set[str]:
        """Ids of jobs that wait to be sent."""
        return {parcel.outcome.job for parcel in self.pending}

    def orphaned(self) -> None:
        """This process is a fork: what waits to be sent is sent by its parent, and only followed here."""
        self.pending.clear()
        self.pending_bytes = 0
        self.failed.clear()

    def give_up(self, error: TelepatchError) -> None:
        """Nothing more will be heard: whatever is open ends with this error."""
        for outcome in list(self.open.values()):
            self._fail(outcome, error.record())

    def unseen_failures(self) -> Iterable[Outcome]:
        """Jobs that failed without their author noticing, oldest first; each is reported once."""
        found, self.failed = list(self.failed.values()), {}
        return found

    def _accepted(self, parcel: Parcel, accepted: Accepted) -> None:
        outcome = parcel.outcome
        outcome.saves = accepted.saves or outcome.saves
        if accepted.error is not None:
            self._fail(
                outcome, _explained(parcel, accepted.error), "cancelled" if accepted.state == "cancelled" else "failed"
            )
        elif accepted.state == "completed":
            self._complete(
                outcome, accepted.saves, None if accepted.result is None else base64.b64decode(accepted.result)
            )
        elif accepted.state is not None and outcome.state == "pending":
            outcome.move(accepted.state)

    def _complete(self, outcome: Outcome, saves: dict[str, SavedMeta], result: bytes | None) -> None:
        self.open.pop(outcome.job, None)
        self.streaming[outcome.job] = outcome  # what it has streamed may come after the news of its end
        outcome.complete(saves, result)

    def _fail(self, outcome: Outcome, error: ErrorRecord, state: str = "failed", *, late: bool = False) -> None:
        """It ended without a result; `late` where what it has streamed may come after the news of that."""
        self.open.pop(outcome.job, None)
        if late:
            self.streaming[outcome.job] = outcome
        else:
            outcome.heard_out()
        if error.code != "cancelled" and not outcome.ended.is_set():
            self.failed[outcome.job] = outcome
        outcome.fail(error, state)


def _explained(parcel: Parcel, error: ErrorRecord) -> ErrorRecord:
    """A parent that was refused at the door is unknown there; here it is known what became of it."""
    refused = next((parent for parent in parcel.parents if parent.failed), None)
    if error.code != "not_found" or refused is None:
        return error
    detail = f"a job whose value this one uses was refused: {refused.error()}"
    return error.model_copy(update={"code": "dependency_failed", "detail": detail, "parent": refused.job})


def _record(found: object, state: str, job: str) -> ErrorRecord:
    if found is not None:
        return understood(ErrorRecord, found)
    if state == "cancelled":
        return ErrorRecord(code="cancelled", detail=f"job {job} was cancelled")
    return ErrorRecord(code="job_error", detail=f"job {job} failed; the service did not say why")
