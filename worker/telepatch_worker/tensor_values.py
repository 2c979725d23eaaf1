"""What the language says of values, in PyTorch's words: dtypes, what is known of a tensor, indices, and seeds."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from telepatch_protocol.errors import BadArgument
from telepatch_protocol.indexing import Element, Slice
from telepatch_protocol.meta import Meta

DTYPES: dict[str, torch.dtype] = {
    "bool": torch.bool,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
"""PyTorch's dtypes by their names."""

Device = torch.device | str


def meta_of(value: Tensor) -> Meta:
    """Shape and dtype of a tensor."""
    return Meta(tuple(value.shape), str(value.dtype).removeprefix("torch."))


def torch_index(index: tuple[Element, ...], device: Device) -> tuple[Any, ...]:
    """The elements of an index as PyTorch takes them.

    Args:
        index: elements as `telepatch_protocol.indexing.parse` gives them, tensors in place of values.
        device: where the indexed value is.

    Raises:
        BadArgument: a tensor that is no index.
    """
    return tuple(_torch_element(item, torch.device(device)) for item in index)


def seed_of(key: list[int | Tensor]) -> int:
    """The seed that a key stands for; a tensor without axes counts as its number.

    Example:
        ``seed_of([7, torch.tensor(0)]) == seed_of([7, 0])``.
    """
    digest = hashlib.sha256()
    for part in key:
        value = part if isinstance(part, Tensor) else torch.tensor(part)
        digest.update(f"{list(value.shape)}{value.flatten().tolist()};".encode())
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def _torch_element(item: Element, device: torch.device) -> object:
    if isinstance(item, Slice):
        return slice(*(None if end is None else _whole(end) for end in (item.start, item.stop, item.step)))
    if isinstance(item, list):
        return torch.tensor(item, device=device) if item else torch.zeros(0, dtype=torch.int64, device=device)
    if not isinstance(item, Tensor):
        return item
    if item.dtype == torch.bool:
        return item.to(device)
    if item.is_floating_point() or item.dtype == torch.uint8:
        raise BadArgument(f"a {meta_of(item).dtype} value is no index; convert it with .to('int64') or .to('bool')")
    return int(item) if item.ndim == 0 else item.to(device, torch.int64)


def _whole(end: object) -> int:
    """An end of a slice as a number."""
    if isinstance(end, Tensor) and end.numel() == 1 and not end.is_floating_point():
        return int(end)
    if isinstance(end, int) and not isinstance(end, bool):
        return end
    raise BadArgument(f"the end of a slice is one integer; found {end!r}")
