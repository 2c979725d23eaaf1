"""Values that are not computed: numbers, lists, attached tensors and results of earlier jobs, as tensors."""

from __future__ import annotations

import math

import torch

from telepatch_protocol.errors import BadArgument
from telepatch_protocol.literals import list_meta
from telepatch_worker.kernels import DTYPES

Value = object
"""A tensor, a mapping of tensors by output name, or the number, text or list that a constant is."""

_NUMBERS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def as_tensor(value: Value, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A value as a tensor.

    Args:
        value: a tensor, which stays as it is; a number; or a list of numbers or booleans, nested evenly.
        device: where a new tensor is made.
        dtype: of a new tensor; by default int64, float32 or bool, by what the numbers are.

    Raises:
        BadArgument: text, or a list that is ragged or mixed.
    """
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, str) and value in _NUMBERS:
        value = _NUMBERS[value]
    if not isinstance(value, bool | int | float | list):
        raise BadArgument(f"{type(value).__name__} {value!r:.60} is no tensor, number or list of numbers")
    return torch.tensor(value, dtype=dtype or DTYPES[_dtype_of(value)], device=device)


def _dtype_of(value: bool | int | float | list[object]) -> str:
    if isinstance(value, list):
        return list_meta(value).dtype or "float32"
    return "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "float32"


def bytes_of(value: Value) -> int:
    """Bytes that a value's tensors take."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    return sum(bytes_of(one) for one in value.values()) if isinstance(value, dict) else 0


def compact(value: Value) -> Value:
    """The same value without the rest of a larger tensor that it is a view of."""
    if isinstance(value, dict):
        return {name: compact(one) for name, one in value.items()}
    if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() > value.nbytes:
        return value.clone(memory_format=torch.contiguous_format)
    return value
