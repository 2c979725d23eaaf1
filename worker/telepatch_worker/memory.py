"""Refuse weights that will not fit before any of them is fetched or read."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from telepatch_worker.cards import CardFile, LoadError

_ROOM = 1.1
"""Weights take a little more than their bytes while they are read."""
_MOST_HEADER = 100 * 2**20
_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
_WIDTH = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}


@dataclass(frozen=True)
class Space:
    """Where a model is to go.

    Attributes:
        device: the device that holds the weights.
        dtype: the floating dtype that they are held in.
        free: bytes that they may take, None where nobody knows.
        parts: ranks that hold the model together, each on a device of its own unless that is the CPU.
    """

    device: torch.device
    dtype: torch.dtype
    free: int | None
    parts: int = 1

    def bytes_of(self, counts: Mapping[str, int]) -> int:
        """Bytes that so many numbers of each safetensors dtype take here: floats become `dtype`, others stay."""
        widths = {kind: self.dtype.itemsize if kind in _FLOATS else _WIDTH.get(kind, 1) for kind in counts}
        return sum(count * widths[kind] for kind, count in counts.items())

    def refuse_too_big(self, file: CardFile, counts: Mapping[str, int]) -> None:
        """Raise `LoadError` with the numbers where so many numbers of each dtype do not fit."""
        parts = 1 if self.device.type == "cpu" else self.parts
        needed = math.ceil(self.bytes_of(counts) * _ROOM / parts)
        if self.free is not None and needed > self.free:
            raise LoadError(
                f"{file.id}: its weights need {needed / 2**30:.2f} GiB in {file.dtype} on {self.device}, "
                f"{self.free / 2**30:.2f} GiB are free; a narrower dtype on the card or a larger device would do"
            )


def _header(path: Path) -> dict[str, dict[str, object]]:
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(_MOST_HEADER, path.stat().st_size):
            raise LoadError(f"{path} is not a safetensors file, or only a part of one")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return dict(header)


def stored_counts(folder: Path) -> dict[str, int]:
    """How many numbers of each dtype the safetensors files of a folder hold, from their headers alone."""
    counts: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for tensor in _header(path).values():
            shape, kind = tensor["shape"], str(tensor["dtype"])
            counts[kind] = counts.get(kind, 0) + (math.prod(shape) if isinstance(shape, list) else 0)
    return counts


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _container_room(group: Path) -> int | None:
    """Bytes left under the memory limit of this container, if it has one."""
    limit, used = _read_number(group / "memory.max"), _read_number(group / "memory.current")
    return None if limit is None or used is None else max(0, limit - used)


def room_for_caches(device: torch.device) -> int | None:
    """Bytes for the keys and values of generations, of those that are free once the model is there: the rest is for
    forwards, and on a host for whatever else runs there."""
    free = free_memory(device)
    return None if free is None else free // (2 if device.type == "cuda" else 4)


def free_memory(device: torch.device) -> int | None:
    """Bytes free on the device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    system = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    room = _container_room(Path("/sys/fs/cgroup"))
    return min([*system, *([] if room is None else [room])], default=None)
