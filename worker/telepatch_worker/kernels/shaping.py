"""Kernels that move, join and repeat elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from telepatch_worker.kernels.adapters import Kernel, on_one_device, over_axes, placed, plain, unary


def _number(value: int) -> Tensor:
    """A size as a value; it stays on the CPU, so that reading it waits for nothing."""
    return torch.tensor(value)


def _joined(function: Callable[[list[Tensor], int], Tensor]) -> Kernel:
    return lambda tensors, dim: function(on_one_device(tensors), dim)


def _all_joined(function: Callable[[list[Tensor]], Tensor]) -> Kernel:
    return lambda tensors: function(on_one_device(tensors))


def _meshgrid(tensors: list[Tensor], indexing: str) -> dict[str, Tensor]:
    grids = torch.meshgrid(on_one_device(tensors), indexing=indexing)
    return {str(place): grid for place, grid in enumerate(grids)}


def _cartesian_prod(tensors: list[Tensor]) -> Tensor:
    found: Tensor = torch.cartesian_prod(*on_one_device(tensors))
    return found


def _block_diag(tensors: list[Tensor]) -> Tensor:
    found: Tensor = torch.block_diag(*on_one_device(tensors))
    return found


def _rot90(input: Tensor, k: int, dims: list[int] | None) -> Tensor:
    return torch.rot90(input, k, dims or [0, 1])


def _pad(input: Tensor, pad: Any, mode: str, value: float | None) -> Tensor:
    return torch.nn.functional.pad(input, pad if isinstance(pad, list) else [pad], mode, value)


_PLAIN = (
    *(torch.reshape, torch.flatten, torch.unflatten, torch.transpose, torch.squeeze, torch.unsqueeze),
    *(torch.repeat_interleave, torch.roll, torch.movedim, torch.tile),
)

KERNELS: dict[str, Kernel] = {
    **{function.__name__: plain(function) for function in _PLAIN},
    **{function.__name__: unary(function) for function in (torch.fliplr, torch.flipud)},
    **{
        function.__name__: _all_joined(function)
        for function in (torch.hstack, torch.vstack, torch.dstack, torch.column_stack)
    },
    "flip": over_axes(torch.flip),
    "permute": over_axes(torch.permute),
    "size": lambda input, dim: _number(input.shape[dim]),
    "numel": lambda input: _number(input.numel()),
    "mT": lambda input: input.mT,
    "expand": lambda input, size: input.expand(size),
    "broadcast_to": placed(torch.broadcast_to),
    "expand_as": lambda input, other: input.expand_as(other),
    "repeat": lambda input, repeats: input.repeat(repeats),
    "unfold": placed(torch.Tensor.unfold),
    "cat": _joined(torch.cat),
    "stack": _joined(torch.stack),
    "meshgrid": _meshgrid,
    "cartesian_prod": _cartesian_prod,
    "block_diag": _block_diag,
    "rot90": _rot90,
    "pad": _pad,
}
"""The kernels of this group by the names of their operations."""
