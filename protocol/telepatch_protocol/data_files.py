"""Files of columns: how the columns of an upload stand in one safetensors file, written, described and read.

A column ``x`` is one or two tensors of the file. Rows of equal shape: ``x``, with the rows along its leading axis. Rows
that differ in length: ``x``, all rows one after the other along the leading axis, and ``x.lengths``, int64, the length
of each. Texts: ``x.utf8``, uint8, the UTF-8 bytes of all texts one after the other, and ``x.lengths``, the bytes of
each. All columns have equally many rows, and are named by identifiers, so that nothing else can be meant by a dot.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from telepatch_protocol import tensors
from telepatch_protocol.data import Column, Columns
from telepatch_protocol.errors import BadArgument, IndexOutOfRange, ProtocolError
from telepatch_protocol.meta import Meta
from telepatch_protocol.refs import NAME
from telepatch_protocol.tensors import Array, Entry, Tensor

MAX_COLUMNS = 256
MAX_ROWS = 4_000_000
MAX_HEADER = 2**20
"""Limits of one file, so that describing it takes little memory however large it is."""

Lengths = npt.NDArray[np.int64]
Wanted = tuple[int, int]
"""First byte, and the one behind the last, of a part of a file."""

_CHUNK = 2**20
_LENGTHS, _UTF8 = "lengths", "utf8"
_PARTS: dict[frozenset[str], str] = {
    frozenset({""}): "tensor",
    frozenset({"", _LENGTHS}): "ragged",
    frozenset({_UTF8, _LENGTHS}): "text",
}


class Sliceable(Protocol):
    """An array of numpy or PyTorch."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""

    def __getitem__(self, key: Any, /) -> Any:
        """A part of it."""


ArrayT = TypeVar("ArrayT", bound=Sliceable)


@dataclass(frozen=True, slots=True, eq=False)
class Rows(Generic[ArrayT]):
    """A column with its values.

    Attributes:
        column: what it is.
        values: of all rows, one after the other.
        ends: where each row ends in `values`; None for a tensor.
    """

    column: Column
    values: ArrayT
    ends: Lengths | None = None

    def __len__(self) -> int:
        return self.column.rows

    def __getitem__(self, row: int) -> Any:
        """A row: an array, or a text."""
        begin, end = self._bounds(row)
        if self.ends is None:
            return self.values[row]
        if self.column.kind == "ragged":
            return self.values[begin:end]
        return bytes(self.values[begin:end].tolist()).decode()

    @property
    def nbytes(self) -> int:
        """Bytes that the values take."""
        return self.values.nbytes

    def meta(self, row: int) -> Meta | None:
        """What is known of a row without looking at it; None for text."""
        begin, end = self._bounds(row)
        return self.column.row(end - begin)

    def _bounds(self, row: int) -> Wanted:
        if not 0 <= row < len(self):
            raise IndexOutOfRange(f"there is no row {row}; the column has {len(self)}, counted from 0")
        if self.ends is None:
            return row, row + 1
        return int(self.ends[row - 1]) if row else 0, int(self.ends[row])


def encode(columns: Mapping[str, Tensor | Sequence[Tensor] | Sequence[str]]) -> bytes:
    """Columns as one file: a tensor with rows along its leading axis, or a list of a tensor or a text per row.

    Raises:
        BadArgument: a column that cannot be.
    """
    found: dict[str, Tensor] = {}
    for name, column in columns.items():
        try:
            parts = _parts(column)
        except BadArgument as error:
            raise BadArgument(f"column '{name}': {error.detail}") from None
        found |= {f"{name}.{part}" if part else name: tensor for part, tensor in parts.items()}
    return tensors.encode(found)


def describe(data: bytes) -> Columns:
    """The columns of a file, every claim checked.

    Raises:
        ProtocolError: no such file, or one that lies.
    """
    asking = scan(len(data))
    try:
        wanted = next(asking)
        while True:
            wanted = asking.send(data[slice(*wanted)])
    except StopIteration as done:
        found: Columns = done.value
        return found


def decode(data: bytes) -> dict[str, Rows[Array]]:
    """The columns of a file with their values, as numpy arrays; bfloat16 as float32.

    Raises:
        ProtocolError: no such file, or one that lies.
    """
    columns = describe(data)
    return with_values(columns, {name: one.array for name, one in tensors.decode(data).items()}, np.asarray)


def with_values(
    columns: Columns, arrays: Mapping[str, ArrayT], to_numpy: Callable[[ArrayT], Any]
) -> dict[str, Rows[ArrayT]]:
    """Described columns and the arrays of their file, put together."""
    found: dict[str, Rows[ArrayT]] = {}
    for name, column in columns.items():
        if column.kind == "tensor":
            found[name] = Rows(column, arrays[name])
            continue
        ends = np.cumsum(to_numpy(arrays[f"{name}.{_LENGTHS}"]), dtype=np.int64)
        found[name] = Rows(column, arrays[name if column.kind == "ragged" else f"{name}.{_UTF8}"], ends)
    return found


def scan(total: int) -> Generator[Wanted, bytes, Columns]:
    """Describe a file of `total` bytes: asks for parts of it, one after the other, and returns its columns.

    Raises:
        ProtocolError: no such file, or one that lies.
    """
    first = yield 0, min(8, total)
    length = tensors.header_bytes(first, total, MAX_HEADER)
    text = yield 8, 8 + length
    columns: dict[str, Column] = {}
    for name, parts in _grouped(tensors.layout(text, total)).items():
        columns[name] = yield from _column(name, parts)
    _check_rows(columns)
    return Columns(columns)


def _grouped(entries: Mapping[str, Entry]) -> dict[str, dict[str, Entry]]:
    """The tensors of each column, by what follows the dot."""
    found: dict[str, dict[str, Entry]] = {}
    for full, entry in entries.items():
        name, dot, part = full.partition(".")
        if not re.fullmatch(NAME, name, re.ASCII) or (dot and part not in (_LENGTHS, _UTF8)):
            raise ProtocolError(
                f"the file has a tensor {full[:80]!r}; a column x is 'x', 'x' with 'x.lengths', or 'x.utf8' with "
                "'x.lengths', and its name an identifier of at most 64 letters"
            )
        found.setdefault(name, {})[part] = entry
    if not 0 < len(found) <= MAX_COLUMNS:
        raise ProtocolError(f"the file has {len(found)} columns; 1 to {MAX_COLUMNS} can be")
    return dict(sorted(found.items()))


def _column(name: str, parts: Mapping[str, Entry]) -> Generator[Wanted, bytes, Column]:
    kind = _PARTS.get(frozenset(parts))
    if kind is None:
        names = " and ".join(f"'{name}.{part}'" if part else f"'{name}'" for part in sorted(parts))
        raise ProtocolError(
            f"column '{name}' has {names}; numbers are '{name}', with '{name}.lengths' where rows differ in length, "
            f"and texts '{name}.utf8' with '{name}.lengths'"
        )
    values = parts[_UTF8 if kind == "text" else ""]
    if not values.shape or (kind == "text" and (values.dtype != "uint8" or len(values.shape) != 1)):
        what = "uint8 with one axis" if kind == "text" else "a tensor with the rows along its first axis"
        raise ProtocolError(f"column '{name}' is {values.dtype} of shape {list(values.shape)}; it should be {what}")
    if kind == "tensor":
        _check_count(name, values.shape[0])
        return Column(kind="tensor", rows=values.shape[0], dtype=values.dtype, tail=values.shape[1:])
    lengths = yield from _lengths(name, parts[_LENGTHS], values.shape[0])
    about = {"rows": len(lengths), "longest": int(lengths.max()), "total": values.shape[0]}
    if kind == "ragged":
        return Column(kind="ragged", dtype=values.dtype, tail=values.shape[1:], **about)
    yield from _texts(name, values, lengths)
    return Column(kind="text", **about)


def _lengths(name: str, entry: Entry, total: int) -> Generator[Wanted, bytes, Lengths]:
    if entry.dtype != "int64" or len(entry.shape) != 1:
        raise ProtocolError(
            f"'{name}.lengths' is {entry.dtype} of shape {list(entry.shape)}; it should be int64 with one axis"
        )
    _check_count(name, entry.shape[0])
    raw = yield entry.start, entry.stop
    lengths = np.frombuffer(raw, "<i8").astype(np.int64, copy=False)
    wrong = np.flatnonzero((lengths < 0) | (lengths > total))
    if len(wrong):
        raise ProtocolError(
            f"'{name}.lengths' gives row {wrong[0]} the length {lengths[wrong[0]]}; column '{name}' has {total} in all"
        )
    if lengths.sum() != total:
        raise ProtocolError(f"'{name}.lengths' adds up to {lengths.sum()}; column '{name}' has {total}")
    return lengths


def _texts(name: str, entry: Entry, lengths: Lengths) -> Generator[Wanted, bytes, None]:
    """Read through all texts in pieces: valid as a whole, and no row begins in the middle of a character."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(entry.start, entry.stop, _CHUNK):
        chunk = yield at, min(at + _CHUNK, entry.stop)
        before, pending = at - entry.start, len(decoder.getstate()[0])
        try:
            decoder.decode(chunk, final=at + _CHUNK >= entry.stop)
        except UnicodeDecodeError as error:
            row = np.searchsorted(ends, before - pending + error.start, side="right")
            raise ProtocolError(f"row {row} of text column '{name}' is not UTF-8: {error.reason}") from None
        first, last = np.searchsorted(starts, (before, before + len(chunk)))
        cut = np.flatnonzero(np.frombuffer(chunk, np.uint8)[starts[first:last] - before] & 0xC0 == 0x80)
        if len(cut):
            raise ProtocolError(f"row {first + cut[0]} of text column '{name}' begins in the middle of a character")


def _check_count(name: str, rows: int) -> None:
    if not 0 < rows <= MAX_ROWS:
        raise ProtocolError(f"column '{name}' has {rows} rows; 1 to {MAX_ROWS:,} can be")


def _check_rows(columns: Mapping[str, Column]) -> None:
    counts = {name: column.rows for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"'{name}' {rows}" for name, rows in counts.items())
        raise ProtocolError(f"the columns of one upload have equally many rows; found {shown}")


def _parts(column: Tensor | Sequence[Tensor] | Sequence[str]) -> dict[str, Tensor]:
    """The tensors that stand for a column, by what follows the dot."""
    if isinstance(column, Tensor):
        return {"": column}
    texts = [one.encode("utf-8", "surrogatepass") for one in column if isinstance(one, str)]
    if texts and len(texts) == len(column):
        joined = np.frombuffer(b"".join(texts), np.uint8)
        return {_UTF8: Tensor(joined, "uint8"), _LENGTHS: _counted([len(text) for text in texts])}
    rows = [one for one in column if isinstance(one, Tensor)]
    if not rows or len(rows) != len(column):
        raise BadArgument("rows are all texts or all tensors, and at least one")
    kinds = sorted({f"{row.dtype} (?{''.join(f', {dim}' for dim in row.array.shape[1:])})" for row in rows})
    if len(kinds) > 1 or not all(row.array.ndim for row in rows):
        raise BadArgument(f"rows differ along their first axis only; found {', '.join(kinds)}")
    joined_rows = np.concatenate([row.array for row in rows])
    return {"": Tensor(joined_rows, rows[0].dtype), _LENGTHS: _counted([row.array.shape[0] for row in rows])}


def _counted(lengths: list[int]) -> Tensor:
    return Tensor(np.asarray(lengths, np.int64), "int64")
