"""Kernels along axes: sums and extremes, running ones, sorting, counting, softmax and norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from telepatch_worker.kernels import bounds
from telepatch_worker.kernels.adapters import Kernel, plain, reduction


def _norm(input: Tensor, p: float, dim: list[int] | None, keepdim: bool) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(input, p, dim, keepdim)
    return found


def _sort(input: Tensor, dim: int, descending: bool) -> tuple[Tensor, ...]:
    return tuple(torch.sort(input, dim=dim, descending=descending, stable=True))


def _argsort(input: Tensor, dim: int, descending: bool) -> Tensor:
    return torch.argsort(input, dim=dim, descending=descending, stable=True)


def _searchsorted(sorted_sequence: Tensor, values: Any, right: bool) -> Tensor:
    values = values.contiguous() if isinstance(values, Tensor) else values
    return torch.searchsorted(sorted_sequence.contiguous(), values, right=right)


def _bucketize(input: Tensor, boundaries: Tensor, right: bool) -> Tensor:
    return torch.bucketize(input.contiguous(), boundaries.contiguous(), right=right)


def _aminmax(input: Tensor, dim: int | None, keepdim: bool) -> tuple[Tensor, ...]:
    return tuple(torch.aminmax(input, dim=dim, keepdim=keepdim))


def _bincount(input: Tensor, weights: Tensor | None, minlength: int) -> Tensor:
    return torch.bincount(bounds.within(input, minlength, "the count ('minlength')"), weights, minlength)


def _unique(input: Tensor, return_inverse: bool, return_counts: bool) -> Tensor | dict[str, Tensor]:
    output, inverse, counts = torch.unique(input, sorted=True, return_inverse=True, return_counts=True)
    found = {"output": output}
    found |= {"inverse_indices": inverse} if return_inverse else {}
    found |= {"counts": counts} if return_counts else {}
    return found if len(found) > 1 else output


def _trapezoid(y: Tensor, x: Tensor | None, dx: float, dim: int) -> Tensor:
    return torch.trapezoid(y, dx=dx, dim=dim) if x is None else torch.trapezoid(y, x, dim=dim)


_ALONG = (
    *(torch.sum, torch.mean, torch.prod, torch.std, torch.var, torch.logsumexp, torch.amax, torch.amin),
    *(torch.max, torch.min, torch.median, torch.quantile, torch.argmax, torch.argmin, torch.any, torch.all),
    *(torch.nansum, torch.nanmean, torch.nanmedian, torch.nanquantile, torch.std_mean, torch.var_mean),
)
_PLAIN = (
    *(torch.count_nonzero, torch.cumsum, torch.cumprod, torch.topk, torch.softmax, torch.log_softmax),
    *(functional.layer_norm, functional.rms_norm, functional.group_norm, functional.normalize, functional.softmin),
    *(torch.cummax, torch.cummin, torch.logcumsumexp, torch.kthvalue, torch.mode, torch.diff, torch.histc),
    *(torch.dist, torch.cov, torch.corrcoef),
)

KERNELS: dict[str, Kernel] = {
    **{function.__name__: reduction(function) for function in _ALONG},
    **{function.__name__: plain(function) for function in _PLAIN},
    "norm": _norm,
    "sort": _sort,
    "argsort": _argsort,
    "searchsorted": _searchsorted,
    "bucketize": _bucketize,
    "aminmax": _aminmax,
    "bincount": _bincount,
    "unique": _unique,
    "trapezoid": _trapezoid,
}
"""The kernels of this group by the names of their operations."""
