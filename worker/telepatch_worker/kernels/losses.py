"""Kernels of losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from telepatch_worker.kernels import bounds
from telepatch_worker.kernels.adapters import Kernel, plain


def _cross_entropy(input: Tensor, target: Any, ignore_index: int, **options: Any) -> Tensor:
    count = input.shape[0 if input.ndim == 1 else 1]
    found = bounds.classes(target, count, ignore_index, input.device)
    return functional.cross_entropy(input, found, ignore_index=ignore_index, **options)


def _nll_loss(input: Tensor, target: Any, ignore_index: int, **options: Any) -> Tensor:
    count = input.shape[0 if input.ndim == 1 else 1]
    found = bounds.classes(target, count, ignore_index, input.device)
    return functional.nll_loss(input, found, ignore_index=ignore_index, **options)


def _multi_margin_loss(input: Tensor, target: Any, p: int, margin: float, reduction: str) -> Tensor:
    found = bounds.within(torch.as_tensor(target, device=input.device), input.shape[-1], "the axis of classes")
    return functional.multi_margin_loss(input, found, p, margin, reduction=reduction)


def _kl_div(input: Tensor, target: Tensor, reduction: str, log_target: bool) -> Tensor:
    if reduction != "mean":
        return functional.kl_div(input, target, reduction=reduction, log_target=log_target)
    # The same number as reduction="mean", without its warning that another is better.
    return functional.kl_div(input, target, reduction="none", log_target=log_target).mean()


def _binary_cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    bounds.probabilities(input, target)
    if weight is None:
        return functional.binary_cross_entropy(input, target, reduction=reduction)
    found = functional.binary_cross_entropy(input, target, reduction="none") * weight  # PyTorch has no gradient of it
    return found if reduction == "none" else found.mean() if reduction == "mean" else found.sum()


KERNELS: dict[str, Kernel] = {
    **{
        function.__name__: plain(function)
        for function in (
            *(functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss),
            *(functional.binary_cross_entropy_with_logits, functional.soft_margin_loss),
            *(functional.cosine_embedding_loss, functional.hinge_embedding_loss, functional.margin_ranking_loss),
            *(functional.triplet_margin_loss, functional.gaussian_nll_loss, functional.poisson_nll_loss),
        )
    },
    "cross_entropy": _cross_entropy,
    "nll_loss": _nll_loss,
    "multi_margin_loss": _multi_margin_loss,
    "kl_div": _kl_div,
    "binary_cross_entropy": _binary_cross_entropy,
}
"""The kernels of this group by the names of their operations."""
