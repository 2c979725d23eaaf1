"""Tensors as safetensors bytes, without PyTorch: numpy arrays for every dtype, bfloat16 included.

numpy has no bfloat16, so a tensor of it is read as float32 holding the same numbers, and its dtype is kept beside it.
The format is that of the safetensors library: a little-endian header length, a JSON header, the data.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from telepatch_protocol.dtypes import ITEM_BYTES
from telepatch_protocol.errors import ProtocolError
from telepatch_protocol.meta import Meta, shown
from telepatch_protocol.printable import short

Array = npt.NDArray[np.generic]

MAX_HEADER = 16 * 2**20
"""Bytes that a header may take."""

MAX_AXES = 64
"""How many axes a tensor may have."""

_MOST_ELEMENTS = 2**62

_WIRE: dict[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}
_NAMES = {dtype: wire for wire, dtype in _WIRE.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """An array and the dtype it has on the wire; `array` is float32 where the dtype is bfloat16."""

    array: Array
    dtype: str

    @staticmethod
    def of(array: Array) -> Tensor:
        """An array with its own dtype.

        Raises:
            ProtocolError: a dtype that values cannot have, such as complex or text.
        """
        name = array.dtype.name
        if name not in ITEM_BYTES:
            raise ProtocolError(f"arrays of dtype {name} cannot be sent; known: {', '.join(ITEM_BYTES)}")
        return Tensor(array, name)

    @property
    def meta(self) -> Meta:
        """Its shape and dtype."""
        return Meta(tuple(self.array.shape), self.dtype)


def encode(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as one safetensors file."""
    header: dict[str, object] = {}
    chunks: list[bytes] = []
    offset = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-ITEM_BYTES[item[1].dtype], item[0])):
        data = _raw(tensor)
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.array.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(chunks)


def metas(data: bytes) -> dict[str, Meta]:
    """Names, shapes and dtypes of a safetensors file, every claim of its header checked against its bytes.

    Raises:
        ProtocolError: not such a file, or one whose header lies.
    """
    return {name: Meta(entry.shape, entry.dtype) for name, entry in _read_header(data).items()}


def decode(data: bytes) -> dict[str, Tensor]:
    """Tensors of a safetensors file, as read-only views of `data` where numpy knows the dtype.

    Raises:
        ProtocolError: not such a file, or one whose header lies.
    """
    try:
        return {name: _read(data, entry) for name, entry in _read_header(data).items()}
    except ValueError as error:  # more axes than this numpy can hold
        raise ProtocolError(f"the safetensors file holds a tensor that numpy cannot: {error}") from None


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: what it is, and where its bytes begin and end."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def header_bytes(first: bytes, total: int, most: int = MAX_HEADER) -> int:
    """How long the header is that follows the first eight bytes of a file of `total` bytes.

    Raises:
        ProtocolError: no safetensors file.
    """
    if len(first) < 8:
        raise ProtocolError(f"{len(first)} bytes are no safetensors file")
    length: int = struct.unpack("<Q", first[:8])[0]
    if length > min(most, total - 8):
        raise ProtocolError(f"the safetensors header claims {length} bytes; there are {total - 8}, and {most} can be")
    return length


def layout(text: bytes, total: int) -> dict[str, Entry]:
    """The tensors of a file by its header, every claim checked against the `total` bytes of the file.

    Raises:
        ProtocolError: a header that is none, or that lies.
    """
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the safetensors header is not JSON") from error
    if not isinstance(header, dict):
        raise ProtocolError("the safetensors header is no JSON object")
    header.pop("__metadata__", None)
    entries = {name: _entry(name, claim, 8 + len(text), total) for name, claim in header.items()}
    end = 8 + len(text)
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            raise ProtocolError(f"tensor '{name}' overlaps another one or leaves a gap")
        end = entry.stop
    if end != total:
        raise ProtocolError(f"{total - end} bytes of the safetensors file belong to no tensor")
    return entries


def _read_header(data: bytes) -> dict[str, Entry]:
    return layout(data[8 : 8 + header_bytes(data, len(data))], len(data))


def _entry(name: str, claim: object, base: int, total: int) -> Entry:
    if not isinstance(claim, dict) or set(claim) != {"dtype", "shape", "data_offsets"}:
        raise ProtocolError(f"tensor '{name}' is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = _WIRE.get(str(claim["dtype"])), claim["shape"], claim["data_offsets"]
    name = short(name, 100)
    if dtype is None:
        raise ProtocolError(f"tensor '{name}' has dtype {shown(claim['dtype'])}; known: {', '.join(_WIRE)}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise ProtocolError(f"tensor '{name}' has a shape or offsets that are no lists of natural numbers")
    if len(shape) > MAX_AXES:
        raise ProtocolError(f"tensor '{name}' has {len(shape)} axes; {MAX_AXES} can be")
    if math.prod(dim for dim in shape if dim) > _MOST_ELEMENTS:  # even of an empty one, no library holds such axes
        raise ProtocolError(f"tensor '{name}' of shape {shape} has more elements than there can be")
    count = math.prod(shape)
    start, stop = base + offsets[0], base + offsets[1]
    if stop > total or stop - start != count * ITEM_BYTES[dtype]:
        raise ProtocolError(
            f"tensor '{name}' of shape {shape} and dtype {dtype} does not fill its {stop - start} bytes"
        )
    return Entry(dtype, tuple(shape), start, stop)


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 2**62 for one in value)


def _read(data: bytes, entry: Entry) -> Tensor:
    raw = memoryview(data)[entry.start : entry.stop]
    if entry.dtype != "bfloat16":
        array = np.frombuffer(raw, dtype=np.dtype(entry.dtype).newbyteorder("<")).reshape(entry.shape)
        return Tensor(array.astype(entry.dtype, copy=False), entry.dtype)
    high = np.frombuffer(raw, dtype="<u2").astype(np.uint32) << 16
    return Tensor(high.view(np.float32).reshape(entry.shape), "bfloat16")


def _raw(tensor: Tensor) -> bytes:
    if tensor.dtype == "bfloat16":
        return _round_to_bfloat16(tensor.array).tobytes()
    wanted = np.dtype(tensor.dtype).newbyteorder("<")
    return np.ascontiguousarray(tensor.array, dtype=wanted).tobytes()


def _round_to_bfloat16(array: Array) -> npt.NDArray[np.uint16]:
    """The upper halves of float32 numbers, rounded to nearest even; not-a-number stays that."""
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return np.where(np.isnan(array.astype(np.float32)), np.uint16(0x7FC0), rounded).astype("<u2")
