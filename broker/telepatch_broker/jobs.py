"""Jobs as they cross this room: what the gateway hands in, what a worker takes, what became of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from telepatch_protocol.jobs import JobStatus, Price, Priority, SavedMeta
from telepatch_protocol.understood import understood

LaneName = Literal["interactive", "long"]
"""Jobs that are over in one go, and jobs that run slice by slice."""


@dataclass(frozen=True)
class Source:
    """Where, in the author's file, a job uses the value of another."""

    node: str | None = None
    file: str | None = None
    line: int | None = None

    def known(self) -> dict[str, str | int]:
        """What is known of it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class NewJob:
    """A checked job, ready to be queued.

    Attributes:
        id: UUID minted by the client; the same id again is the same job.
        person: whose job it is.
        model: id of the model that runs it.
        document: the request, JSON.
        tokens: what the gateway adds about the inputs, JSON.
        attachment: tensors sent along, safetensors.
        parents: ids of the jobs whose values this one uses, and where it does.
        data: uploads that it uses, by digest, with the blobs that hold them.
        price: what it costs; shown, not used here.
        cost: tokens it counts for, in the budget of a batch and in the person's turn.
        alone: never runs in a batch with others.
        group: only jobs of the same group share a batch.
        saves: what is known of the values it saves.
        warnings: what its author should know.
        lane: where it waits.
        priority: among the jobs of its owner.
        timeout_seconds: how long it may compute; None for what the model allows.
        origin: what stands in logs and traces of it: the id of its request, and a W3C traceparent.
    """

    id: str
    person: str
    model: str
    document: bytes
    tokens: bytes = b""
    attachment: bytes = b""
    parents: Mapping[str, Source] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    price: Price | None = None
    cost: int = 1
    alone: bool = False
    group: str = ""
    saves: Mapping[str, SavedMeta] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    lane: LaneName = "interactive"
    priority: Priority = "normal"
    timeout_seconds: float | None = None
    origin: Mapping[str, str] = field(default_factory=dict)

    def digest(self, attachment: bytes) -> str:
        """The same for the same content, whatever the gateway made of it; takes the hash of the attachment."""
        parts = (self.model.encode(), self.document, attachment, *sorted(id.encode() for id in self.parents))
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


@dataclass(frozen=True)
class TakenJob:
    """A job that a worker has a lease on.

    Attributes:
        attachment: tensors sent along, or None when they stand in the blob store as `attachment_blob`.
        data: uploads that it uses, by digest, with the blobs that hold them.
        attempt: 1 for the first worker that tries.
        submitted: Unix time in seconds.
        checkpoint: the blob that says how far an earlier worker came, if one did.
        spent: seconds that it took to come there.
        lane: where it waited.
        timeout_seconds: how long it may compute; None for what the model allows.
        waited: seconds that it was queued for, where known.
        origin: as its gateway said.
    """

    id: str
    person: str
    model: str
    document: bytes
    tokens: bytes
    attachment: bytes | None
    attachment_blob: str | None
    parents: dict[str, Source]
    cost: int
    alone: bool
    group: str
    attempt: int
    submitted: float
    data: dict[str, str] = field(default_factory=dict)
    checkpoint: str | None = None
    spent: float = 0.0
    lane: LaneName = "interactive"
    timeout_seconds: float | None = None
    waited: float | None = None
    origin: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """How a job was completed.

    Attributes:
        id: of the job.
        saves: what is in the result.
        result: the saved values, safetensors.
        warnings: what its author should know.
        seconds: how long it ran.
    """

    id: str
    saves: Mapping[str, SavedMeta]
    result: bytes | Path
    warnings: Sequence[str] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Result:
    """The saved values of a completed job: `inline` where they are small, in the blob store as `blob` otherwise."""

    job: str
    saves: dict[str, SavedMeta]
    size: int
    inline: bytes | None = None
    blob: str | None = None


@dataclass(frozen=True)
class Page:
    """Some jobs of a person, newest first; `cursor` asks for the next ones and is None at the end."""

    jobs: tuple[JobStatus, ...]
    cursor: str | None


def saves_to_json(saves: Mapping[str, SavedMeta]) -> str:
    """Descriptions of saved values as one JSON object."""
    return json.dumps({name: meta.model_dump(mode="json") for name, meta in saves.items()})


def saves_from_json(text: bytes | str) -> dict[str, SavedMeta]:
    """What `saves_to_json` wrote."""
    return {name: understood(SavedMeta, meta) for name, meta in json.loads(text).items()}


def parents_to_json(parents: Mapping[str, Source]) -> str:
    """Parents as one JSON object."""
    return json.dumps({id: source.known() for id, source in parents.items()})


def parents_from_json(text: bytes | str) -> dict[str, Source]:
    """What `parents_to_json` wrote."""
    return {id: Source(**known) for id, known in json.loads(text).items()}
