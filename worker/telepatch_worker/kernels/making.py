"""Kernels that make values from none: constants and ranges."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from telepatch_worker.kernels.adapters import Kernel, plain
from telepatch_worker.tensor_values import Device


def _full_number(fill_value: Any) -> Any:
    return fill_value.item() if isinstance(fill_value, Tensor) else fill_value


def _full(size: list[int], fill_value: Any, dtype: torch.dtype | None, device: Device) -> Tensor:
    if isinstance(fill_value, Tensor) and fill_value.requires_grad:
        return fill_value.to(device, dtype).expand(size)
    return torch.full(size, _full_number(fill_value), dtype=dtype, device=device)


def _eye(n: int, m: int | None, dtype: torch.dtype, device: Device) -> Tensor:
    return torch.eye(n, n if m is None else m, dtype=dtype, device=device)


def _arange(start: int, end: int, step: int, dtype: torch.dtype | None, device: Device) -> Tensor:
    return torch.arange(start, end, step, dtype=dtype, device=device)


def _tril_indices(row: int, col: int, offset: int, device: Device) -> Tensor:
    return torch.tril_indices(row, col, offset, device=device)


def _triu_indices(row: int, col: int, offset: int, device: Device) -> Tensor:
    return torch.triu_indices(row, col, offset, device=device)


KERNELS: dict[str, Kernel] = {
    **{
        function.__name__: plain(function)
        for function in (
            *(torch.zeros, torch.ones, torch.zeros_like, torch.ones_like, torch.full_like),
            *(torch.linspace, torch.logspace),
        )
    },
    "full": _full,
    "eye": _eye,
    "arange": _arange,
    "tril_indices": _tril_indices,
    "triu_indices": _triu_indices,
}
"""The kernels of this group by the names of their operations."""

PLACED = frozenset({"zeros", "ones", "full", "eye", "arange", "linspace", "logspace", "tril_indices", "triu_indices"})
"""Those that are told the device."""
