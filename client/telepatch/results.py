"""Many results in one answer: the frames of ``POST /v1/results``."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from telepatch_protocol.errors import ErrorRecord, ProtocolError
from telepatch_protocol.jobs import SavedMeta


@dataclass(frozen=True, slots=True, eq=False)
class Arrived:
    """One job's result, or the error that stands in its place."""

    job: str
    result: bytes
    saves: dict[str, SavedMeta]
    error: ErrorRecord | None


def unframe(data: bytes) -> Iterator[Arrived]:
    """Each result of an answer, in order.

    Raises:
        ProtocolError: an answer cut short, or one of another form.
    """
    at = 0
    while at < len(data):
        try:
            (length,) = struct.unpack_from("<I", data, at)
            header = json.loads(data[at + 4 : at + 4 + length])
            begin = at + 4 + length
            at = begin + int(header["size"])
            error = header.get("error")
            saves = {name: SavedMeta.model_validate(found) for name, found in (header.get("saves") or {}).items()}
            record = None if error is None else ErrorRecord.model_validate(error)
        except (struct.error, ValueError, KeyError, TypeError, AttributeError):
            raise ProtocolError("the answer with results is not of the expected form") from None
        if at > len(data):
            raise ProtocolError("the answer with results was cut short")
        yield Arrived(str(header["id"]), data[begin:at], saves, record)
