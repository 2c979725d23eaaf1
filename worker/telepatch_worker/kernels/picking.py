"""Kernels that pick or place elements by index; every index is checked first, see `bounds`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from telepatch_worker.kernels import bounds
from telepatch_worker.kernels.adapters import Kernel, plain


def _take_along_dim(input: Tensor, indices: Tensor, dim: int | None) -> Tensor:
    if dim is None:
        return torch.take_along_dim(input, bounds.within(indices, input.numel(), "the value", negative=True))
    return torch.take_along_dim(input, bounds.along(input, dim, indices, negative=True), dim)


def _used(src: Tensor, index: Tensor) -> Tensor:
    """The part of a source that an index takes; PyTorch has gradients for that part alone."""
    return src[tuple(slice(size) for size in index.shape)] if index.ndim == src.ndim else src


def _scatter(input: Tensor, dim: int, index: Tensor, src: Any) -> Tensor:
    source = _used(src, index) if isinstance(src, Tensor) else src
    return torch.scatter(input, dim, bounds.along(input, dim, index), source)


def _scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    return torch.scatter_add(input, dim, bounds.along(input, dim, index), _used(src, index))


def _scatter_reduce(input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, include_self: bool) -> Tensor:
    found = bounds.along(input, dim, index)
    return torch.scatter_reduce(input, dim, found, _used(src, index), reduce, include_self=include_self)


def _index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, alpha: float) -> Tensor:
    return torch.index_add(input, dim, bounds.along(input, dim, index), source, alpha=alpha)


def _index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    return torch.index_copy(input, dim, bounds.along(input, dim, index), source)


def _index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    filling = value.to(input.device) if isinstance(value, Tensor) else value
    return torch.index_fill(input, dim, bounds.along(input, dim, index), filling)


def _embedding(input: Tensor, weight: Tensor) -> Tensor:
    return functional.embedding(bounds.within(input, weight.shape[0], "the axis of rows of 'weight'"), weight)


def _diagonal_scatter(input: Tensor, src: Tensor, offset: int, dim1: int, dim2: int) -> Tensor:
    return torch.diagonal_scatter(input, src, offset, dim1, dim2)


KERNELS: dict[str, Kernel] = {
    **{
        function.__name__: plain(function)
        for function in (
            *(torch.nonzero, torch.diagonal, torch.tril, torch.triu, torch.diag, torch.diag_embed, torch.diagflat),
            *(torch.masked_select, torch.select, torch.narrow, torch.select_scatter, torch.slice_scatter),
        )
    },
    "index": lambda input, index: input[bounds.index_into(input, index)],
    "index_select": lambda input, dim, index: torch.index_select(input, dim, bounds.along(input, dim, index)),
    "gather": lambda input, dim, index: torch.gather(input, dim, bounds.along(input, dim, index)),
    "take": lambda input, index: torch.take(input, bounds.within(index, input.numel(), "the value", negative=True)),
    "take_along_dim": _take_along_dim,
    "scatter": _scatter,
    "scatter_add": _scatter_add,
    "scatter_reduce": _scatter_reduce,
    "index_add": _index_add,
    "index_copy": _index_copy,
    "index_fill": _index_fill,
    "one_hot": lambda input, num_classes: functional.one_hot(
        bounds.within(input, num_classes, "the axis of classes"), num_classes
    ),
    "embedding": _embedding,
    "diagonal_scatter": _diagonal_scatter,
}
"""The kernels of this group by the names of their operations."""
