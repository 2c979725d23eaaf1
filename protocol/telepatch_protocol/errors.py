"""Every way a request can go wrong, as one tree; the same classes on both sides of the wire.

    TelepatchError
    ├── GraphError              the request is wrong and will never run as it stands
    │   ├── ProtocolError       not a document of this protocol
    │   │   └── VersionError    a protocol version that this side does not speak
    │   ├── UnknownSite         no such module, port, leaf or parameter in the model
    │   ├── UnknownOperation    not in the vocabulary
    │   ├── UnknownName         a ``$reference`` to nothing
    │   ├── BadArgument         an argument of the wrong type, number or value
    │   ├── ShapeError          shapes that do not fit together
    │   ├── IndexOutOfRange     an index past the end of an axis
    │   ├── DtypeError          dtypes that do not mix
    │   ├── CausalLoop          a value is needed before it can exist
    │   ├── NotYetSupported     in the language, not yet executed by this service
    │   └── TooLarge            over the price limit of the model
    │       └── JobOverLimit    over the largest job that this person may send
    ├── TraceError              a proxy was used in a way that cannot become data
    │   └── NotSaved            a value was looked at that was never saved
    ├── JobError                accepted, and ended without a result
    │   ├── ExecutionError      the graph raised while it ran
    │   ├── OutOfMemory         the job alone does not fit
    │   ├── TimeLimit           the job ran longer than it may
    │   ├── WorkerLost          its workers died, too often
    │   ├── DependencyFailed    a job whose value it uses did not complete
    │   ├── Cancelled           by its owner
    │   └── Expired             completed, but its result is no longer kept
    └── ServiceError            the service said no, or said nothing
        ├── Unauthorized        no key, or not one that is known
        ├── Forbidden           a known key that may not do this
        │   └── ModelNotAllowed a model that this person may not use
        ├── NotFound            no such job, model or result of yours
        ├── Conflict            the same id with another content
        ├── PayloadTooLarge     a body over the limit
        │   └── StorageFull     uploads and results take all the room that this person may have
        ├── RateLimited         too many requests
        │   ├── TooManyJobs     as many unended jobs as this person may have
        │   └── ComputeSpent    as many seconds of workers as this person may have in a day
        ├── Unavailable         the service, or a part of it, is down
        └── ConnectionFailed    the gateway cannot be reached

Errors cross the wire as an `ErrorRecord` and come back as the class named by its code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from telepatch_protocol.printable import printable, short
from telepatch_protocol.within import Within


class ErrorRecord(BaseModel):
    """An error as data: what was found, at which node, at which line of the author's file.

    `within`, since protocol 1.1, is written only where there is something to say: for a node inside sub-graphs, which
    element or step of each it was, the outermost first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    code: str
    detail: str
    node: str | None = None
    file: str | None = None
    line: int | None = None
    parent: str | None = None
    within: tuple[Within, ...] = ()

    @model_serializer(mode="wrap")
    def _short(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = plain(self)
        if self.within:
            found["within"] = [one.model_dump(exclude_defaults=True) for one in self.within]
        else:
            del found["within"]
        return found


class TelepatchError(Exception):
    """Base of every error that Telepatch raises.

    Args:
        detail: what was found and what would have worked.
        node: id of the node of the graph it concerns, if one does.
        file: the author's file, where known.
        line: the line in that file, counted from 1.
        parent: id of what causes it, if it is elsewhere: another job, or in a causal loop another node.
        within: which elements and steps of the nodes around it, the outermost first.
    """

    def __init__(
        self,
        detail: str,
        *,
        node: str | None = None,
        file: str | None = None,
        line: int | None = None,
        parent: str | None = None,
        within: Sequence[Within] = (),
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.node = node
        self.file = file
        self.line = line
        self.parent = parent
        self.within = tuple(within)

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file and self.line else ""
        inside = ", ".join(f"in {one}" for one in self.within)
        return printable(f"{where}{self.detail}" + (f" [{inside}]" if inside else ""))

    @classmethod
    def code(cls) -> str:
        """The name of this class on the wire: ``ShapeError`` is ``shape_error``."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

    def at(self, *, node: str | None = None, file: str | None = None, line: int | None = None) -> TelepatchError:
        """Fill in the place where it is not known yet, and return self."""
        self.node = self.node or node
        if self.file is None:
            self.file, self.line = file, line
        return self

    def inside(self, *around: Within) -> TelepatchError:
        """Say what is around all that is known so far, the outermost first, and return self."""
        self.within = (*around, *self.within)
        return self

    def record(self) -> ErrorRecord:
        """This error as data; what is longer than anybody reads is cut, because it may travel once per job."""
        return ErrorRecord(
            code=self.code(),
            detail=short(self.detail),
            node=_cut(self.node),
            file=_cut(self.file),
            line=self.line,
            parent=_cut(self.parent),
            within=self.within,
        )


class GraphError(TelepatchError):
    """The request is wrong and will never run as it stands."""


class ProtocolError(GraphError):
    """The bytes are not a document of this protocol."""


class VersionError(ProtocolError):
    """A protocol version that this side does not speak."""


class UnknownSite(GraphError):
    """No such module, port, leaf or parameter in the model."""


class UnknownOperation(GraphError):
    """An operation that is not in the vocabulary."""


class UnknownName(GraphError):
    """A reference to a name that nothing defines."""


class BadArgument(GraphError):
    """An argument of the wrong type, number or value."""


class ShapeError(GraphError):
    """Shapes that do not fit together."""


class IndexOutOfRange(GraphError):
    """An index past the end of an axis."""


class DtypeError(GraphError):
    """Dtypes that do not mix."""


class CausalLoop(GraphError):
    """A value is needed before it can exist."""


class NotYetSupported(GraphError):
    """Part of the language, not yet executed by this service."""


class TooLarge(GraphError):
    """The job's price is over the limit of the model."""


class JobOverLimit(TooLarge):
    """The job's price is over what this person may send as one job."""


class TraceError(TelepatchError):
    """A proxy was used in a way that cannot become data."""


class NotSaved(TraceError):
    """A value was looked at that was never saved."""


class JobError(TelepatchError):
    """The job was accepted and ended without a result."""


class ExecutionError(JobError):
    """The graph raised while it ran."""


class OutOfMemory(JobError):
    """The job alone does not fit into the worker's memory."""


class TimeLimit(JobError):
    """The job ran longer than it may."""


class WorkerLost(JobError):
    """The workers that took the job died, too often."""


class DependencyFailed(JobError):
    """A job whose value this one uses did not complete; `parent` names it."""


class Cancelled(JobError):
    """The owner cancelled the job."""


class Expired(JobError):
    """The job completed, but its result is no longer kept."""


class ServiceError(TelepatchError):
    """The service said no, or said nothing."""


class Unauthorized(ServiceError):
    """No API key was sent, or not one that is known."""


class Forbidden(ServiceError):
    """A known API key that may not do this."""


class ModelNotAllowed(Forbidden):
    """A model that this person may not use."""


class NotFound(ServiceError):
    """There is no such job, model or result among those of this person."""


class Conflict(ServiceError):
    """The same id was used before with another content."""


class PayloadTooLarge(ServiceError):
    """The body of the request is over the limit."""


class StorageFull(PayloadTooLarge):
    """Uploads and results take all the room that this person may have."""


class RateLimited(ServiceError):
    """Too many requests; the answer says when to come back."""

    retry_after: float = 1.0

    def after(self, seconds: float) -> Self:
        """Say in how many seconds the same may work, and return self."""
        self.retry_after = seconds
        return self


class TooManyJobs(RateLimited):
    """This person has as many unended jobs as they may have; one that ends makes room."""


class ComputeSpent(RateLimited):
    """This person has used up the seconds of workers that they may have in a day."""


class Unavailable(ServiceError):
    """The service, or a part of it that is needed, is down."""

    retry_after: float | None = None


class ConnectionFailed(ServiceError):
    """The gateway cannot be reached."""


def _cut(text: str | None) -> str | None:
    return None if text is None else short(text, 400)


def _tree(root: type[TelepatchError]) -> dict[str, type[TelepatchError]]:
    found = {root.code(): root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


ERRORS: dict[str, type[TelepatchError]] = _tree(TelepatchError)
"""Every error class by its code on the wire."""


def from_record(record: ErrorRecord | dict[str, Any]) -> TelepatchError:
    """The error that a record stands for; a code from a newer service becomes its nearest known base."""
    found = record if isinstance(record, ErrorRecord) else ErrorRecord.model_validate(record)
    cls = ERRORS.get(found.code, TelepatchError)
    return cls(
        found.detail, node=found.node, file=found.file, line=found.line, parent=found.parent, within=found.within
    )
