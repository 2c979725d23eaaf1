"""Data on its way to the service: what an author gives becomes a file of columns, which is sent in parts."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from telepatch import arguments
from telepatch.courier import PATIENT_S
from telepatch.progress import Progress
from telepatch.transport import Transport, persist
from telepatch_protocol import data_files
from telepatch_protocol.data import Columns, Upload
from telepatch_protocol.errors import BadArgument, Conflict, ConnectionFailed, TelepatchError, Unavailable
from telepatch_protocol.tensors import Tensor

PART = 8 * 2**20
"""Bytes that go into one request."""

_ANSWER_S = 300.0
_PAUSE_S = 0.2

Column = Tensor | list[Tensor] | list[str]


@dataclass(frozen=True, slots=True, eq=False)
class File:
    """Columns as they are sent."""

    data: bytes
    digest: str
    columns: Columns

    @staticmethod
    def of(given: Mapping[str, Any]) -> File:
        """What an author gives, by name of column.

        Raises:
            BadArgument: something that is no column.
        """
        columns = {name: _named(name, value) for name, value in given.items()}
        data = data_files.encode(columns)
        return File(data, hashlib.sha256(data).hexdigest(), data_files.describe(data))


class Sending(Progress):
    """A line that says how much of a file has been sent."""

    def __init__(self, file: File, *, shown: bool | None) -> None:
        super().__init__((), shown=shown)
        self._size = len(file.data)
        self._sent = 0

    def sent(self, count: int) -> None:
        """So many bytes are there."""
        self._sent = count
        self.tick()

    def _state(self) -> str:
        tenths = 10 * self._sent // self._size  # a log gets a line for each of these, not for each part
        return f"sending data, {10 * tenths} % of {self._size / 2**20:,.1f} MiB"


async def send(transport: Transport, file: File, sent: Callable[[int], None]) -> Upload:
    """Send a file, unless it is there; goes on where it was when a connection breaks.

    Args:
        transport: to the gateway.
        file: the data.
        sent: is told how many bytes are there.
    """
    moved = time.monotonic()
    upload = await _announced(transport, file)
    while not upload.complete:
        sent(upload.received)
        before = upload.received
        try:
            upload = await _put(transport, file, before, min(before + PART, len(file.data)))
        except (ConnectionFailed, Unavailable, Conflict) as error:
            # Nobody knows how much of that part has come; or somebody else sends the same.
            upload = await _announced(transport, file)
            if upload.received <= before and not upload.complete:
                await _pause_unless_late(error, moved)
                continue
        moved = time.monotonic()
    sent(len(file.data))
    return upload


async def fetch(transport: Transport, digest: str) -> bytes:
    """The whole of an upload."""

    async def ask() -> bytes:
        headers = {"accept": "application/octet-stream"}
        async with transport.exchange("GET", path_of(digest), headers=headers, timeout=_ANSWER_S) as response:
            return await response.aread()

    return await persist(ask, lambda: PATIENT_S)


async def delete(transport: Transport, digest: str) -> None:
    """Have the service forget an upload."""
    await remove(transport, path_of(digest))


async def remove(transport: Transport, path: str) -> None:
    """Have the service forget something."""
    async with transport.exchange("DELETE", path) as response:
        await response.aread()


def path_of(digest: str) -> str:
    """Where an upload is on the gateway."""
    return f"/v1/data/{digest}"


async def _announced(transport: Transport, file: File) -> Upload:
    """Say what is to come, and learn how much of it is there."""
    return await persist(lambda: _put(transport, file, 0, 0), lambda: PATIENT_S)


async def _put(transport: Transport, file: File, start: int, stop: int) -> Upload:
    place = f"{start}-{stop - 1}" if stop > start else "*"
    headers = {"content-type": "application/octet-stream", "content-range": f"bytes {place}/{len(file.data)}"}
    part = bytes(memoryview(file.data)[start:stop])
    async with transport.exchange(
        "PUT", path_of(file.digest), content=part, headers=headers, timeout=_ANSWER_S
    ) as response:
        return Upload.model_validate_json(await response.aread())


async def _pause_unless_late(error: TelepatchError, moved: float) -> None:
    if time.monotonic() - moved > PATIENT_S:
        raise error
    await asyncio.sleep(_PAUSE_S)


def _named(name: str, value: Any) -> Column:
    try:
        return _column(value)
    except BadArgument as error:
        raise BadArgument(f"column '{name}': {error.detail}") from None


def _column(value: Any) -> Column:
    """An array, or a list of texts, of numbers, or of arrays that may differ along their first axis."""
    value = arguments.plain(value)
    if isinstance(value, np.ndarray):
        return _column(value.tolist()) if value.dtype.kind in "UO" else arguments.tensor_of(value)
    if hasattr(value, "__array__"):
        return _column(np.asarray(value))
    if not isinstance(value, list | tuple) or not value:
        raise BadArgument(
            f"{type(value).__name__} {value!r:.60} is no column; give an array, a list of texts, or a list of numbers, "
            "of arrays or of lists of numbers, at least one"
        )
    texts = [one for one in value if isinstance(one, str)]
    if texts and len(texts) < len(value):
        raise BadArgument("rows are all texts or all numbers; found both")
    return texts or _rows([_array(one) for one in value])


def _array(row: Any) -> np.ndarray[Any, Any]:
    row = arguments.plain(row)
    try:
        return row if isinstance(row, np.ndarray) else np.asarray(row)
    except ValueError:
        raise BadArgument(f"the row {row!r:.60} is ragged itself; a row is a number, or numbers of one shape") from None


def _rows(rows: list[np.ndarray[Any, Any]]) -> Column:
    """One tensor where all rows are alike, else a tensor per row."""
    tensors = [arguments.tensor_of(row) for row in rows]
    if len({(tensor.array.shape, tensor.dtype) for tensor in tensors}) == 1:
        return Tensor(np.stack([tensor.array for tensor in tensors]), tensors[0].dtype)
    if all(row.ndim == 0 for row in rows):
        return arguments.tensor_of(np.stack(rows))
    return tensors
